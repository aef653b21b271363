//! A client in a process of its own, which does what it is told.
//!
//! Each line that it is sent is a command with its arguments, each line that it answers with is
//! `ok` with fields, or `error` with Kafka's code (`~` if there is none) and a text; between them
//! are tabs. A record is `partition|key|value|time|name=value,name=value`, where `~` is none; nothing
//! between the marks is an empty text. All programs know the same commands:
//!
//! | command | what |
//! |---|---|
//! | `connect` address | from here on; what was connected is forgotten |
//! | `producer` name codec id | a producer, idempotent, transactional if there is an id |
//! | `send` producer topic records | the offsets, once all are acknowledged |
//! | `begin` producer, `end` producer `commit` or `abort` | a transaction |
//! | `offset_in_transaction` producer member topic offset | of partition 0 |
//! | `read` topic offset count isolation | records of partition 0 |
//! | `join` member group topic protocol | a member that subscribes to the topic |
//! | `poll` member | how many partitions it has, and records |
//! | `commit` member topic partition=offset | |
//! | `committed` member topic partitions | offsets |
//! | `leave` member | |
//! | `create` topic partitions setting value, `grow` topic partitions, `delete` topic | |
//! | `partitions` topic | how many; 0 if there is no topic |
//! | `missing` topic | an error |
//! | `describe` topic setting, `alter` topic setting value | |
//! | `delete_records` topic offset | where partition 0 begins then |
//! | `groups`, `state` group, `delete_group` group | |
//! | `offset` topic `earliest`, `latest` or a time | of partition 0; -1 or the end if there is none |

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Program {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    /// What it says of its errors.
    errors: File,
}

/// What does as it is told.
pub(crate) trait Commands {
    /// Takes a command; the fields of its answer.
    fn call(&mut self, fields: &[&str]) -> Result<Vec<String>, Failure>;

    /// All that it said of its errors, beside answers.
    fn errors(&mut self) -> String {
        String::new()
    }
}

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Kafka's number of the error.
    pub(crate) code: Option<i16>,
    /// What the client says.
    pub(crate) text: String,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let errors = tempfile::tempfile().unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{command:?}: {error}: run `cargo xtask test`, which installs the clients")
            });
        let commands = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, answers) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| said.send(line))
        });
        Self { child, commands, answers, errors }
    }
}

impl Commands for Program {
    fn call(&mut self, fields: &[&str]) -> Result<Vec<String>, Failure> {
        let sent = writeln!(self.commands, "{}", fields.join("\t"));
        let Some(line) = sent.ok().and_then(|()| self.answers.recv_timeout(PATIENCE).ok()) else {
            panic!("{fields:?} has no answer\n{}", self.errors());
        };
        let mut answer = line.split('\t').map(str::to_owned);
        match answer.next().as_deref() {
            Some("ok") => Ok(answer.collect()),
            Some("error") => {
                let code = answer.next().and_then(|code| code.parse().ok());
                Err(Failure { code, text: answer.collect() })
            }
            _ => panic!("{fields:?} is answered with {line:?}\n{}", self.errors()),
        }
    }

    fn errors(&mut self) -> String {
        let mut text = Vec::new();
        self.errors.rewind().unwrap();
        self.errors.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
