//! Any course of events.

use proptest::prelude::*;

use super::*;

/// What one of a few clients does next, or how long nothing happens.
#[derive(Debug, Clone)]
enum Deed {
    Join(usize),
    JoinAnew(usize),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Pass(u64),
}

const CLIENTS: usize = 4;

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..CLIENTS).prop_map(Deed::Join),
        1 => (0..CLIENTS).prop_map(Deed::JoinAnew),
        4 => (0..CLIENTS).prop_map(Deed::Sync),
        3 => (0..CLIENTS).prop_map(Deed::Heartbeat),
        1 => (0..CLIENTS).prop_map(Deed::Leave),
        3 => (1..15_000_u64).prop_map(Deed::Pass),
    ]
}

proptest! {
    /// Whatever clients do, and in whatever order: nobody is told twice, nobody waits for ever,
    /// and all who are told of a generation are told the same.
    #[test]
    fn any_course_of_events_is_answered_and_agreed_on(
        deeds in prop::collection::vec(deed(), 1..120),
    ) {
        let mut world = World::new();
        let mut names: Vec<Option<MemberId>> = vec![None; CLIENTS];
        // What those are called who do not know it yet; others may say so in their place.
        let mut unknown: Vec<Option<String>> = vec![None; CLIENTS];
        let mut generations = [0; CLIENTS];
        let mut joins: Vec<(usize, Token)> = Vec::new();
        let (mut life, mut told) = (0, Vec::new());
        for deed in deeds {
            match deed {
                Deed::Join(client) => {
                    let token = world.join(names[client].as_deref());
                    unknown[client] = names[client].is_none().then(|| format!("m{}", world.fresh));
                    joins.push((client, token));
                }
                Deed::JoinAnew(client) => {
                    let token = world.join(None);
                    joins.push((client, token));
                }
                Deed::Sync(client) => {
                    if let Some(name) = names[client].clone() {
                        let parts: Vec<(&str, &str)> =
                            names.iter().flatten().map(|name| (&**name, &**name)).collect();
                        world.sync(&name, generations[client], &parts);
                    }
                }
                Deed::Heartbeat(client) => {
                    if let Some(name) = names[client].clone() {
                        let _ = world.heartbeat(&name, generations[client]);
                    }
                }
                Deed::Leave(client) => {
                    let unknown = unknown[client].take().map(Into::into);
                    if let Some(name) = names[client].take().or(unknown) {
                        let _ = world.leave(&name);
                    }
                }
                Deed::Pass(millis) => world.pass(Duration::from_millis(millis)),
            }
            joins.retain(|(client, token)| match world.told.get(token) {
                Some(Answer::Joined(joined)) => {
                    names[*client] = Some(joined.member.clone());
                    generations[*client] = joined.generation;
                    told.push((life, joined.clone()));
                    false
                }
                Some(Answer::JoinRefused(ResponseError::UnknownMemberId, _)) => {
                    names[*client] = None;
                    false
                }
                Some(_) => false,
                None => true,
            });
            // A group that nobody ever got into is forgotten, and counts from 1 if it begins anew.
            life += u32::from(world.coordinator.describe("g").is_none());
        }
        // Everybody falls silent: all waits end, and nobody is left.
        world.pass(Duration::from_hours(1));
        for token in 1..=world.tokens {
            prop_assert!(!world.is_parked(Token(token)), "token {token} waits for ever");
        }
        prop_assert_eq!(world.state(), State::Empty);
        prop_assert!(world.coordinator.next_deadline().is_none());

        let mut leaders: BTreeMap<(u32, i32), MemberId> = BTreeMap::new();
        for (life, joined) in told {
            let generation = (life, joined.generation);
            let leader = leaders.entry(generation).or_insert(joined.leader.clone());
            prop_assert_eq!(&*leader, &joined.leader, "a generation has one leader");
            prop_assert_eq!(joined.members.is_empty(), joined.leader != joined.member);
        }
    }
}
