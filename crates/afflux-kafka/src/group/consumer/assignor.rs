//! Who shall hold which partition. Pure, and the same for the same input.
//!
//! - `uniform` gives all members as nearly as possible the same number of partitions, and moves
//!   no more than that takes.
//! - `range` gives each member of each topic neighbouring partitions, in the order of members, so
//!   that partitions of one number of several topics come together.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use crate::group::{Part, Parts};

/// The assignor if members do not ask for another.
pub(crate) const DEFAULT: &str = UNIFORM;

const UNIFORM: &str = "uniform";
const RANGE: &str = "range";

/// What a member wants.
#[derive(Debug)]
pub(crate) struct Wants<'a> {
    /// Orders members.
    pub(crate) order: &'a Arc<str>,
    /// The topics.
    pub(crate) topics: BTreeSet<Uuid>,
    /// What it was to hold before.
    pub(crate) held: &'a Parts,
}

/// An assignor's name, if there is such a one.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    [UNIFORM, RANGE].into_iter().find(|known| *known == name)
}

/// What each member shall hold. `sizes` has the number of partitions of each topic.
pub(crate) fn assign(
    assignor: &str,
    members: &[Wants<'_>],
    sizes: &BTreeMap<Uuid, i32>,
) -> Vec<Parts> {
    if members.is_empty() {
        Vec::new()
    } else if assignor == RANGE {
        range(members, sizes)
    } else if members.windows(2).all(|pair| pair[0].topics == pair[1].topics) {
        uniform_alike(members, sizes)
    } else {
        uniform(members, sizes)
    }
}

fn range(members: &[Wants<'_>], sizes: &BTreeMap<Uuid, i32>) -> Vec<Parts> {
    let mut assigned = vec![Parts::new(); members.len()];
    for (topic, size) in sizes {
        let mut takers = takers(members, topic);
        takers.sort_by_key(|at| members[*at].order);
        let Some(share) = size.checked_div(takers.len() as i32) else { continue };
        let mut extra = size % takers.len() as i32;
        let mut next = 0;
        for at in takers {
            let end = next + share + i32::from(extra > 0);
            extra -= 1;
            assigned[at].extend((next..end).map(|partition| (*topic, partition)));
            next = end;
        }
    }
    assigned
}

/// All want the same.
fn uniform_alike(members: &[Wants<'_>], sizes: &BTreeMap<Uuid, i32>) -> Vec<Parts> {
    let wanted = &members[0].topics;
    let mut free: Parts = parts(sizes).filter(|(topic, _)| wanted.contains(topic)).collect();
    let share = free.len() / members.len();
    // So many may have one more.
    let mut extra = free.len() % members.len();
    let mut assigned = vec![Parts::new(); members.len()];
    for (member, assigned) in members.iter().zip(&mut assigned) {
        for part in member.held {
            let room = assigned.len() < share || assigned.len() == share && extra > 0;
            if room && free.remove(part) {
                extra -= usize::from(assigned.len() == share);
                assigned.insert(*part);
            }
        }
    }
    for most in [share, share + 1] {
        for assigned in &mut assigned {
            while assigned.len() < most
                && let Some(part) = free.pop_first()
            {
                assigned.insert(part);
            }
        }
    }
    assigned
}

/// Members want different topics.
fn uniform(members: &[Wants<'_>], sizes: &BTreeMap<Uuid, i32>) -> Vec<Parts> {
    let takers: BTreeMap<Uuid, Vec<usize>> =
        sizes.keys().map(|topic| (*topic, takers(members, topic))).collect();
    let mut free: Parts = parts(sizes).collect();
    let mut assigned = vec![Parts::new(); members.len()];
    for (member, assigned) in members.iter().zip(&mut assigned) {
        let may_keep = member.held.iter().filter(|(topic, _)| member.topics.contains(topic));
        assigned.extend(may_keep.filter(|part| free.remove(*part)).copied());
    }
    // What few can take first, while those few have little else.
    let mut free: Vec<Part> = free.into_iter().collect();
    free.sort_by_key(|(topic, partition)| (takers[topic].len(), *topic, *partition));
    for part in free {
        let least = takers[&part.0].iter().copied().min_by_key(|at| (assigned[*at].len(), *at));
        if let Some(at) = least {
            assigned[at].insert(part);
        }
    }
    // Each move makes two loads more alike, so this ends.
    loop {
        let mut moved = false;
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|at| Reverse(assigned[*at].len()));
        for from in order {
            for part in assigned[from].clone() {
                let to = takers[&part.0].iter().copied().min_by_key(|at| assigned[*at].len());
                if let Some(to) = to
                    && assigned[to].len() + 1 < assigned[from].len()
                {
                    assigned[from].remove(&part);
                    assigned[to].insert(part);
                    moved = true;
                }
            }
        }
        if !moved {
            return assigned;
        }
    }
}

fn takers(members: &[Wants<'_>], topic: &Uuid) -> Vec<usize> {
    (0..members.len()).filter(|at| members[*at].topics.contains(topic)).collect()
}

fn parts(sizes: &BTreeMap<Uuid, i32>) -> impl Iterator<Item = Part> {
    sizes.iter().flat_map(|(topic, size)| (0..*size).map(move |partition| (*topic, partition)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(number: usize) -> Uuid {
        Uuid::from_u128(number as u128)
    }

    /// Members by the topics that they want, each held nothing.
    fn given(assignor: &str, wants: &[&[usize]], sizes: &[i32]) -> Vec<Vec<(usize, i32)>> {
        let nothing = vec![Parts::new(); wants.len()];
        let told = assigned(assignor, wants, sizes, &nothing);
        let plain =
            |parts: &Parts| parts.iter().map(|(id, at)| (id.as_u128() as usize, *at)).collect();
        told.iter().map(plain).collect()
    }

    fn assigned(
        assignor: &str,
        wants: &[impl AsRef<[usize]>],
        sizes: &[i32],
        held: &[Parts],
    ) -> Vec<Parts> {
        let names: Vec<Arc<str>> = (0..wants.len()).map(|at| format!("m{at:03}").into()).collect();
        let wants = wants.iter().zip(&names).zip(held).map(|((topics, order), held)| Wants {
            order,
            topics: topics.as_ref().iter().copied().map(topic).collect(),
            held,
        });
        let sizes = sizes.iter().enumerate().map(|(at, size)| (topic(at), *size)).collect();
        assign(assignor, &wants.collect::<Vec<_>>(), &sizes)
    }

    #[test]
    fn range_gives_neighbours_of_each_topic() {
        assert_eq!(given(RANGE, &[&[0], &[0]], &[3]), [vec![(0, 0), (0, 1)], vec![(0, 2)]]);
        // The same numbers of two topics come together.
        let both = given(RANGE, &[&[0, 1], &[0, 1]], &[2, 2]);
        assert_eq!(both, [vec![(0, 0), (1, 0)], vec![(0, 1), (1, 1)]]);
        // More members than partitions; a topic that only one wants.
        let few = given(RANGE, &[&[0], &[0, 1], &[0]], &[2, 1]);
        assert_eq!(few, [vec![(0, 0)], vec![(0, 1), (1, 0)], vec![]]);
        assert_eq!(given(RANGE, &[&[5]], &[2]), [vec![]]);
    }

    #[test]
    fn uniform_gives_the_same_number() {
        assert_eq!(given(UNIFORM, &[&[0], &[0]], &[3]), [vec![(0, 0), (0, 2)], vec![(0, 1)]]);
        // Who wants more topics leaves those to it that others want, too.
        let skewed = given(UNIFORM, &[&[0, 1], &[0]], &[2, 2]);
        assert_eq!(skewed, [vec![(1, 0), (1, 1)], vec![(0, 0), (0, 1)]]);
    }

    #[test]
    fn uniform_moves_what_it_must_and_no_more() {
        let alone = assigned(UNIFORM, &[[0]], &[4], &[Parts::new()]);
        let two = assigned(UNIFORM, &[[0], [0]], &[4], &[alone[0].clone(), Parts::new()]);
        assert_eq!((two[0].len(), two[1].len()), (2, 2));
        assert!(two[0].is_subset(&alone[0]));
        // The second leaves again, and the topic has grown.
        let again = assigned(UNIFORM, &[[0]], &[6], &[two[0].clone()]);
        assert_eq!(again[0].len(), 6);
    }

    proptest! {
        #[test]
        fn every_partition_that_is_wanted_has_one_holder_who_wants_it(
            wants in prop::collection::vec(prop::collection::btree_set(0..5_usize, 0..5), 1..9),
            before in prop::collection::vec(prop::collection::btree_set(0..5_usize, 0..5), 1..9),
            sizes in prop::collection::vec(0..9_i32, 5),
            assignor in prop_oneof![Just(UNIFORM), Just(RANGE)],
        ) {
            let lists = |wants: &[BTreeSet<usize>]| -> Vec<Vec<usize>> {
                wants.iter().map(|topics| topics.iter().copied().collect()).collect()
            };
            let nothing = vec![Parts::new(); before.len()];
            let mut held = assigned(assignor, &lists(&before), &sizes, &nothing);
            held.resize(wants.len(), Parts::new());
            let now = assigned(assignor, &lists(&wants), &sizes, &held);
            let mut seen = Parts::new();
            for (parts, topics) in now.iter().zip(&wants) {
                for part in parts {
                    prop_assert!(seen.insert(*part), "{part:?} has two holders");
                    prop_assert!(topics.contains(&(part.0.as_u128() as usize)));
                }
            }
            let all: usize = (0..5)
                .filter(|topic| wants.iter().any(|wanted| wanted.contains(topic)))
                .map(|topic| sizes[topic] as usize)
                .sum();
            prop_assert_eq!(seen.len(), all);
            if assignor == UNIFORM {
                // Nobody has two more than who could take one of them.
                for (from, parts) in now.iter().enumerate() {
                    for (topic, _) in parts {
                        let topic = topic.as_u128() as usize;
                        let takers = (0..now.len()).filter(|to| wants[*to].contains(&topic));
                        let least = takers.map(|to| now[to].len()).min().unwrap_or(0);
                        prop_assert!(parts.len() <= least + 1, "{from}: {now:?}");
                    }
                }
                // Asked again, it changes nothing.
                prop_assert_eq!(&assigned(UNIFORM, &lists(&wants), &sizes, &now), &now);
            }
        }
    }
}
