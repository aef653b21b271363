//! `afflux journal`: the journal of a node that is not running, on its files.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::Path,
};

use afflux_server::journal::{self, Checked, RepairError};
use afflux_types::Classified;
use serde_json::json;

use crate::{
    args::{JournalArgs, JournalCommand},
    failure::{Failure, Status},
    terminal::say,
};

/// Runs the command.
pub(crate) fn run(args: &JournalArgs) -> Result<(), Failure> {
    match &args.command {
        JournalCommand::Check { data_dir, json } => check(data_dir, *json),
        JournalCommand::Repair { data_dir, yes } => repair(data_dir, *yes),
    }
}

fn check(dir: &Path, json: bool) -> Result<(), Failure> {
    let checked = journal::check(dir).map_err(|error| Failure::start(&error))?;
    if json {
        say!("{}", as_json(&checked));
    } else {
        say!("files:   {}", checked.files);
        say!("frames:  {}", checked.frames);
        say!("groups:  {}", checked.groups);
        say!("end:     position {}", checked.end);
        if checked.is_torn {
            say!("tail:    torn; what was not durable is cut at the next start");
        }
        tell(&checked);
    }
    match checked.damage.len() {
        0 => Ok(()),
        1 => Err(damaged("the journal is damaged in 1 place", &checked)),
        places => Err(damaged(&format!("the journal is damaged in {places} places"), &checked)),
    }
}

fn damaged(message: &str, checked: &Checked) -> Failure {
    Failure::new(Status::Failed, message).hint(match checked.stop() {
        Some(_) => {
            "copy the data directory; then restore the file from a backup, or cut off what is \
             listed with `afflux journal repair`"
        }
        None => {
            "the node starts all the same; to get back what stood there, restore the file from a \
             backup"
        }
    })
}

/// What is damaged and what that costs.
fn tell(checked: &Checked) {
    for damage in &checked.damage {
        let path = damage.path.display();
        say!("damaged: {path}, position {}: {}", damage.position, damage.reason);
    }
    for loss in &checked.losses {
        say!(
            "behind:  {}, offsets {} to {}, {} records readable",
            loss.partition,
            loss.from,
            loss.to,
            loss.records
        );
    }
}

fn as_json(checked: &Checked) -> serde_json::Value {
    let damage = checked.damage.iter().map(|damage| {
        json!({
            "path": damage.path.display().to_string(),
            "position": damage.position,
            "reason": damage.reason,
            "stops_the_node": damage.stops,
        })
    });
    let losses = checked.losses.iter().map(|loss| {
        json!({
            "partition": loss.partition,
            "from": loss.from,
            "to": loss.to,
            "records_readable": loss.records,
        })
    });
    json!({
        "files": checked.files,
        "frames": checked.frames,
        "groups": checked.groups,
        "end": checked.end,
        "torn_tail": checked.is_torn,
        "damage": damage.collect::<Vec<_>>(),
        "behind": losses.collect::<Vec<_>>(),
    })
}

fn repair(dir: &Path, yes: bool) -> Result<(), Failure> {
    let repaired = journal::repair(dir, |checked| {
        tell(checked);
        say!("This place and everything behind it leave the journal, for DIR/quarantine.");
        yes || confirmed()
    });
    match repaired {
        Ok(repaired) => {
            say!("The journal ends before that place now, and the node starts.");
            say!("What was taken out, and a report: {}", repaired.quarantine.display());
            Ok(())
        }
        Err(RepairError::Open(error)) => Err(Failure::start(&error)),
        Err(error) => {
            let hint = match &error {
                RepairError::Declined => {
                    Some("answer \"yes\", or pass --yes where nobody can be asked".to_owned())
                }
                error => error.hint(),
            };
            let failure = Failure::new(Status::Failed, error.to_string());
            Err(hint.into_iter().fold(failure, Failure::hint))
        }
    }
}

/// Asks whoever sits at the terminal, if anybody does.
fn confirmed() -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    print!("Type \"yes\" to go on: ");
    let mut answer = String::new();
    std::io::stdout().flush().is_ok()
        && stdin.lock().read_line(&mut answer).is_ok()
        && answer.trim() == "yes"
}
