//! `afflux up`: one node in the foreground.

use std::io::{self, Read, Write};

use afflux_server::{Addresses, Config, CrashPlan, Node};
use anyhow::Context;
use tokio::sync::oneshot;

use crate::{
    args::UpArgs,
    failure::{self, Failure, Status},
    interrupt::Signals,
};

/// For tests alone: `SEED:CRASHES:LEDGER` makes the node end its own process in the middle of a commit.
const CRASH_VARIABLE: &str = "AFFLUX_TEST_CRASH";

/// Runs the command.
pub(crate) fn run(args: &UpArgs) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("AFFLUX_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_ansi(crate::terminal::colours_on_stderr())
        .with_writer(std::io::stderr)
        .init();
    let crash = match std::env::var(CRASH_VARIABLE) {
        Ok(text) => Some(CrashPlan::parse(&text).with_context(|| {
            format!("{CRASH_VARIABLE} is {text:?}, not SEED:CRASHES:LEDGER; it is for tests alone")
        })?),
        Err(_) => None,
    };
    let config = Config {
        data_dir: args.data_dir.clone(),
        listen: args.listen.addresses(),
        kafka_advertised: args.kafka_advertised.clone().map(|place| (place.host, place.port)),
        kafka_settings: args.kafka_settings(),
        log_bytes_max: args.log_bytes_max,
        http_hosts: args.http_host.clone(),
        ready_file: args.ready_file.clone(),
        crash,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(config, args))
}

fn announce(addresses: &Addresses, args: &UpArgs, out: &mut impl Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{}", serde_json::to_string(addresses)?);
    }
    let told = args.kafka_advertised.as_ref();
    let told = told.map_or(String::new(), |place| format!(", clients are told {place}"));
    writeln!(out, "kafka:    {}{told}", addresses.kafka)?;
    writeln!(out, "postgres: {}", addresses.postgres)?;
    writeln!(out, "http:     http://{}/", addresses.http)?;
    writeln!(out, "data:     {}", args.data_dir.display())?;
    writeln!(out, "Ctrl-C stops the node.")
}

async fn serve(config: Config, args: &UpArgs) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let parent_gone = args.until_stdin_ends.then(stdin_end);
    let mut node = Node::start(config).await.map_err(|error| Failure::start(&error))?;
    let addresses = node.addresses();
    // A node serves, whether or not somebody reads this.
    let _ = announce(&addresses, args, &mut std::io::stdout());
    if addresses.kafka.ip().is_unspecified() && args.kafka_advertised.is_none() {
        failure::warn(
            &format!(
                "Kafka clients are told to connect to localhost:{}, which is right on this \
                 machine alone",
                addresses.kafka.port()
            ),
            "name the address by which others reach it: --kafka-advertised HOST:PORT",
        );
    }
    let end = tokio::select! {
        () = signals.next() => End::Signal,
        _ = async { parent_gone.expect("checked by the condition").await },
            if parent_gone.is_some() => End::ParentGone,
        reason = node.failed() => End::Failed(reason),
    };
    let second_signal = async {
        if !matches!(end, End::Signal) {
            signals.next().await;
        }
        signals.next().await;
    };
    tokio::select! {
        () = node.stop() => {}
        () = second_signal => return Err(Failure::interrupted()),
    }
    match end {
        End::Signal | End::ParentGone => Ok(()),
        End::Failed(reason) => Err(Failure::new(Status::Failed, reason)
            .hint("nothing acknowledged is lost; start the node again once the cause is removed")),
    }
}

/// Why a node is to end.
enum End {
    /// Ctrl-C or SIGTERM. A second one means: at once.
    Signal,
    /// The standard input ended.
    ParentGone,
    /// It can not go on.
    Failed(String),
}

/// Resolves when the standard input ends. On a thread, because a read of it can not be cancelled.
fn stdin_end() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut bytes = [0; 64];
        while matches!(stdin.read(&mut bytes), Ok(1..)) {}
        let _ = sender.send(());
    });
    receiver
}
