//! Every command, flag and default, declared once: the parser, `--help` and the shell completions
//! all come from here.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use afflux_server::Addresses;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// The ports that everything listens on and connects to unless told otherwise.
pub(crate) const KAFKA_PORT: u16 = 9092;
pub(crate) const POSTGRES_PORT: u16 = 5433;
pub(crate) const HTTP_PORT: u16 = 8080;

/// What `--help` says at its end about the exit status.
const EXIT_STATUS: &str = "\
Exit status:
  0    success, also after Ctrl-C has ended a command that runs until then
  1    the command failed
  2    the command line is wrong
  3    the node can not be reached
  4    the node can not start here: an address or the data directory is in use or unusable
  5    stored data are damaged
  130  Ctrl-C came before the command was done

Colours are left out where NO_COLOR is set or the output is not a terminal.";

/// A real-time streaming platform in one binary.
///
/// A Kafka-compatible broker, streaming SQL, and materialised views that any Postgres client can
/// read and any client can follow live.
#[derive(Debug, Parser)]
#[command(name = "afflux", version, about, after_help = EXIT_STATUS, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node in the foreground until Ctrl-C
    #[command(after_help = "\
Examples:
  afflux up
  afflux up --data-dir /var/lib/afflux --http 0.0.0.0:8080 --http-host streams.example.com
  afflux up --kafka 0.0.0.0:9092 --kafka-advertised streams.example.com:9092
  afflux up --kafka 127.0.0.1:0 --postgres 127.0.0.1:0 --http 127.0.0.1:0 --ready-file node.json

The ready file is written, whole, once the node serves:
  {\"kafka\":\"127.0.0.1:9092\",\"postgres\":\"127.0.0.1:5433\",\"http\":\"127.0.0.1:8080\"}")]
    Up(UpArgs),
    /// Replay a year of real flights into a node of its own and keep two views of it
    #[command(after_help = "\
Examples:
  afflux demo                               a day of flights a second, until Ctrl-C
  afflux demo --speed max --until-done      the year as fast as it goes, then check the views
  afflux demo --speed max --seconds 60 --until-done --json

With --until-done each view is recomputed in one batch from the table of flights and compared row
by row with what the node answers; exit status 1 if a row differs. The latency shown is that from
the send call of an arrival to the first change of view \"routes\", received as server-sent event,
whose count for that route includes the record.")]
    Demo(DemoArgs),
    /// Run SQL, interactively or from a file or the command line
    #[command(after_help = "\
Examples:
  afflux sql
  afflux sql -c 'SELECT * FROM routes ORDER BY flights DESC LIMIT 10'
  afflux sql -f examples/flights/flights.sql
  afflux sql -c 'SHOW VIEWS' --json")]
    Sql(SqlArgs),
    /// List, create, describe or delete topics
    #[command(after_help = "\
Examples:
  afflux topic create orders --partitions 4
  afflux topic list --json
  afflux topic describe orders
  afflux topic delete orders")]
    Topic(TopicArgs),
    /// Send each line of the standard input as a record
    #[command(after_help = "\
Examples:
  echo '{\"id\": 1}' | afflux produce orders
  afflux produce orders --key-separator : <orders.txt")]
    Produce(ProduceArgs),
    /// Print the records of a topic as they come
    #[command(after_help = "\
Examples:
  afflux consume orders
  afflux consume orders --from-beginning -n 10 --json
  afflux consume orders --group billing")]
    Consume(ConsumeArgs),
    /// Check the journal of a node that is not running, or cut out what is damaged
    #[command(after_help = "\
Examples:
  afflux journal check
  afflux journal check --data-dir /var/lib/afflux --json
  afflux journal repair --data-dir /var/lib/afflux

A node whose journal is not what was written does not start, and changes nothing. Copy the data
directory first. What a repair takes out of the journal is kept in DIR/quarantine, with a report of
what was lost.")]
    Journal(JournalArgs),
    /// Print the version
    Version(VersionArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  afflux completions bash >~/.local/share/bash-completion/completions/afflux
  afflux completions zsh >~/.zfunc/_afflux
  afflux completions fish >~/.config/fish/completions/afflux.fish")]
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "AFFLUX_DATA_DIR", default_value = "afflux-data")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Where Kafka clients are told to connect [default: where the node listens]
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_KAFKA_ADVERTISED", value_parser = advertised)]
    pub(crate) kafka_advertised: Option<HostPort>,
    /// What holds for Kafka clients, by Kafka's names (docs/node-settings.md), such as
    /// offsets.retention.minutes=43200; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", env = "AFFLUX_KAFKA_CONFIG", value_delimiter = ',',
          value_parser = setting)]
    pub(crate) kafka_config: Vec<(String, String)>,
    /// Do not make a topic because a Kafka client asks for it
    #[arg(long, env = "AFFLUX_NO_AUTO_CREATE_TOPICS")]
    pub(crate) no_auto_create_topics: bool,
    /// The most bytes of journal files, such as 500GiB [default: nine tenths of the room]
    #[arg(long, value_name = "BYTES", env = "AFFLUX_LOG_BYTES_MAX", value_parser = log_bytes)]
    pub(crate) log_bytes_max: Option<u64>,
    /// A name by which HTTP clients may know the node, beside its address; may be repeated
    #[arg(long, value_name = "NAME", env = "AFFLUX_HTTP_HOST", value_delimiter = ',')]
    pub(crate) http_host: Vec<String>,
    /// Write the bound addresses here as JSON once the node serves
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Print the bound addresses as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop when the standard input ends, as it does when the parent process is gone
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

impl UpArgs {
    /// All that holds for Kafka clients.
    pub(crate) fn kafka_settings(&self) -> Vec<(String, String)> {
        let no = self.no_auto_create_topics;
        let create = no.then(|| ("auto.create.topics.enable".to_owned(), "false".to_owned()));
        self.kafka_config.iter().cloned().chain(create).collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Where Kafka clients connect; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_KAFKA", value_parser = listen_address,
          default_value_t = loopback(KAFKA_PORT))]
    pub(crate) kafka: SocketAddr,
    /// Where Postgres clients connect; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_POSTGRES", value_parser = listen_address,
          default_value_t = loopback(POSTGRES_PORT))]
    pub(crate) postgres: SocketAddr,
    /// Where HTTP clients connect; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_HTTP", value_parser = listen_address,
          default_value_t = loopback(HTTP_PORT))]
    pub(crate) http: SocketAddr,
}

impl ListenArgs {
    /// The three of them.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses { kafka: self.kafka, postgres: self.postgres, http: self.http }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Days of flights a second, or "max"
    #[arg(long, value_name = "DAYS|max", default_value = "1", value_parser = speed)]
    pub(crate) speed: Speed,
    /// Keep the node's data here [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// End when every flight is in the views, check them, and say how long it took
    #[arg(long)]
    pub(crate) until_done: bool,
    /// Replay the flights so many times, each time a year later
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=200), conflicts_with = "seconds")]
    pub(crate) years: u32,
    /// Repeat the year, each time a year later, until so many seconds are over
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: Option<u32>,
    /// Where Kafka clients connect [default: 127.0.0.1:9092, or the next free port]
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_KAFKA", value_parser = listen_address)]
    pub(crate) kafka: Option<SocketAddr>,
    /// Where Postgres clients connect [default: 127.0.0.1:5433, or the next free port]
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_POSTGRES", value_parser = listen_address)]
    pub(crate) postgres: Option<SocketAddr>,
    /// Where HTTP clients connect [default: 127.0.0.1:8080, or the next free port]
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_HTTP", value_parser = listen_address)]
    pub(crate) http: Option<SocketAddr>,
    /// Print what happens as one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Only the first days of the year, for tests
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) days: Option<u32>,
    /// Do not send the N-th record, counted from 0: the check must notice
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) drop_record: Option<u64>,
    /// Give up when nothing has come nearer to the end for so many seconds
    #[arg(long, value_name = "N", hide = true, default_value_t = 60)]
    pub(crate) patience: u64,
}

/// How fast the replay goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// Days of event time a second.
    DaysASecond(f64),
    /// As fast as it goes.
    Max,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Run these statements and exit
    #[arg(short = 'c', long, value_name = "SQL", conflicts_with = "file")]
    pub(crate) command: Option<String>,
    /// Run the statements of a file ("-" is the standard input) and exit
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Print one JSON object a row
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) node: HttpNode,
}

#[derive(Debug, Args)]
pub(crate) struct HttpNode {
    /// Where the node serves HTTP
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_HTTP",
          default_value_t = loopback(HTTP_PORT).to_string())]
    pub(crate) http: String,
}

#[derive(Debug, Args)]
pub(crate) struct KafkaNode {
    /// Where the node serves Kafka clients
    #[arg(long, value_name = "HOST:PORT", env = "AFFLUX_KAFKA",
          default_value_t = loopback(KAFKA_PORT).to_string())]
    pub(crate) kafka: String,
}

#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    #[command(subcommand)]
    pub(crate) command: TopicCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// List all topics
    List {
        #[command(flatten)]
        node: KafkaNode,
        /// Print one JSON object a topic
        #[arg(long)]
        json: bool,
    },
    /// Create a topic
    Create {
        /// The topic's name
        topic: String,
        /// How many partitions
        #[arg(short, long, value_name = "N", default_value_t = 1,
              value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
        /// A setting of the topic, such as retention.ms=-1; may be given more than once
        #[arg(short, long, value_name = "NAME=VALUE", value_parser = setting)]
        config: Vec<(String, String)>,
        #[command(flatten)]
        node: KafkaNode,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show a topic's partitions and how many records they hold
    Describe {
        /// The topic's name
        topic: String,
        #[command(flatten)]
        node: KafkaNode,
        /// Print one JSON object a partition
        #[arg(long)]
        json: bool,
    },
    /// Delete a topic and all its records
    Delete {
        /// The topic's name
        topic: String,
        #[command(flatten)]
        node: KafkaNode,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not of the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
pub(crate) struct JournalArgs {
    #[command(subcommand)]
    pub(crate) command: JournalCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Read all of it and say what there is; exit status 1 if something is damaged
    Check {
        /// Where everything is kept
        #[arg(long, value_name = "DIR", env = "AFFLUX_DATA_DIR", default_value = "afflux-data")]
        data_dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Move what keeps the node from starting, and everything behind it, aside
    Repair {
        /// Where everything is kept
        #[arg(long, value_name = "DIR", env = "AFFLUX_DATA_DIR", default_value = "afflux-data")]
        data_dir: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// The topic
    pub(crate) topic: String,
    /// What stands between key and value in a line [default: a line is a value without a key]
    #[arg(short = 'k', long, value_name = "TEXT")]
    pub(crate) key_separator: Option<String>,
    #[command(flatten)]
    pub(crate) node: KafkaNode,
}

#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// The topic
    pub(crate) topic: String,
    /// Begin at the first record that is still there, not behind the last
    #[arg(long)]
    pub(crate) from_beginning: bool,
    /// Join a consumer group, go on where it was, and commit what was printed
    #[arg(short, long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Print one JSON object a record, with its place, time and headers
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) node: KafkaNode,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print it as a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// The shells that completions are made for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Of several addresses of a name the first of version 4, where clients look first, too.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let addresses: Vec<_> = text.to_socket_addrs().into_iter().flatten().collect();
    let found = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    found.copied().ok_or_else(|| "expected HOST:PORT, such as 127.0.0.1:9092".to_owned())
}

/// A place as somebody else sees it: nothing is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn advertised(text: &str) -> Result<HostPort, String> {
    let expected = || "expected HOST:PORT, such as streams.example.com:9092".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let legal_v6 = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
    let is_host = !host.is_empty()
        && host.len() <= 255
        && if bare.is_some() { host.chars().all(legal_v6) } else { host.chars().all(legal) };
    match port.parse() {
        Ok(port @ 1..) if is_host => Ok(HostPort { host: host.to_owned(), port }),
        _ => Err(expected()),
    }
}

/// A journal smaller than this would be full before it can drop anything.
const LOG_BYTES_MIN: u64 = 1 << 30;

fn log_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => Some(0),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(shift);
    let bytes = bytes.and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes >= LOG_BYTES_MIN).ok_or_else(|| {
        "expected a number of bytes, MiB, GiB or TiB, such as 500GiB, and at least 1GiB".to_owned()
    })
}

fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.parse::<f64>() {
        Ok(days) if days.is_finite() && days > 0.0 => Ok(Speed::DaysASecond(days)),
        _ => Err("expected a number of days above zero, or \"max\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_node_listens_on_loopback_unless_it_is_told_otherwise() {
        let listen = |words: &[&str]| match Cli::parse_from(words).command {
            Command::Up(args) => [args.listen.kafka, args.listen.postgres, args.listen.http],
            other => panic!("{other:?}"),
        };
        let usual = listen(&["afflux", "up"]);
        assert!(usual.iter().all(|address| address.ip().is_loopback()), "{usual:?}");
        assert_eq!(usual.map(|address| address.port()), [9092, 5433, 8080]);
        let told = listen(&["afflux", "up", "--http", "0.0.0.0:80"]);
        assert_eq!(told.map(|address| address.ip().is_loopback()), [true, true, false]);
    }

    #[test]
    fn a_demo_replays_a_day_a_second() {
        let Command::Demo(args) = Cli::parse_from(["afflux", "demo"]).command else { panic!() };
        assert_eq!(args.speed, Speed::DaysASecond(1.0));
    }

    #[test]
    fn speeds_are_days_or_max() {
        let check = |text: &str, expected: Option<Speed>| assert_eq!(speed(text).ok(), expected);
        check("max", Some(Speed::Max));
        check("1", Some(Speed::DaysASecond(1.0)));
        check("0.5", Some(Speed::DaysASecond(0.5)));
        check("0", None);
        check("-1", None);
        check("NaN", None);
        check("inf", None);
        check("fast", None);
    }

    #[test]
    fn sizes_of_the_log_are_bytes_or_have_a_unit() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(log_bytes(text).ok(), expected);
        check("1073741824", Some(1 << 30));
        check("2048MiB", Some(2 << 30));
        check("500GiB", Some(500 << 30));
        check("1TiB", Some(1 << 40));
        check("1073741823", None);
        check("20000000TiB", None);
        check("500GB", None);
        check("GiB", None);
        check("-1", None);
    }

    #[test]
    fn addresses_are_looked_up_but_for_those_of_others() {
        // A machine may have ::1 for it as well, and in front.
        assert_eq!(listen_address("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(listen_address("[::1]:1").unwrap().to_string(), "[::1]:1");
        let check = |text: &str, expected: Option<(&str, u16)>| {
            let expected = expected.map(|(host, port)| HostPort { host: host.to_owned(), port });
            assert_eq!(advertised(text).ok(), expected, "{text}");
        };
        check("streams.example.com:9092", Some(("streams.example.com", 9092)));
        check("10.0.0.7:1", Some(("10.0.0.7", 1)));
        check("[fd00::1]:9092", Some(("fd00::1", 9092)));
        check("fd00::1:9092", None);
        check("streams.example.com", None);
        check("streams.example.com:0", None);
        check(":9092", None);
        check("a b:9092", None);
        check("kafka://streams:9092", None);
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command().get_subcommands() {
            if command.get_name() != "version" {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:\n  "), "afflux {}", command.get_name());
            }
        }
    }
}
