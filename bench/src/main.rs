//! Measures Lonja beside a bare program that does the same on the network and nothing else. Both
//! are measured in one run, since one machine's figures mean little on another.

mod bare;
mod capacity;
mod chain;
mod compare;
mod console;
mod copy;
mod disk;
mod held;
mod limit;
mod services;
mod sink;
mod transfer;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "lonja-bench", about = "Measures Lonja beside a bare server")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as the bare server: accept, read to the request's end, answer, close
    Bare(bare::Config),
    /// Serve as the limit: accept, read, answer and close with system calls, without a runtime
    Limit(limit::Config),
    /// Load a running index or bare server, and print the results
    Load(lonja_load::load::Config),
    /// Start Lonja and a bare server, load them in turn, and print the ratios
    Compare(compare::Config),
    /// Serve as the front of the bare chain: accept, one gRPC call, answer
    ChainFront(chain::FrontConfig),
    /// Serve as the back of the bare chain: one script call in Redis
    ChainBack(chain::BackConfig),
    /// Load the five services beside the bare chain, and services with traces beside services
    /// without
    Services(services::Config),
    /// Look at a large index through its console, and measure what that costs the peers
    Console(console::Config),
    /// Copy a file between two peers, beside iperf3 and Python
    Copy(copy::Config),
    /// Hold slow connections, and measure what other peers notice
    Held(held::Config),
    /// Register a million users, and measure what each one costs
    Disk(disk::Config),
    /// Measure what each kind of request costs, and whether the sum of that is what many peers cost
    Capacity(capacity::Config),
    /// Import and export a large index through both stores, and export an index in use
    Transfer(transfer::Config),
}

fn main() -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    match Cli::parse().command {
        Command::Bare(config) => bare::run(&config),
        Command::Limit(config) => limit::run(&config),
        Command::Load(config) => lonja_load::load::run(&config),
        Command::Compare(config) => compare::run(&config),
        Command::ChainFront(config) => chain::front(&config),
        Command::ChainBack(config) => chain::back(&config),
        Command::Services(config) => services::run(&config),
        Command::Console(config) => console::run(&config),
        Command::Copy(config) => copy::run(&config),
        Command::Held(config) => held::run(&config),
        Command::Disk(config) => disk::run(&config),
        Command::Capacity(config) => capacity::run(&config),
        Command::Transfer(config) => transfer::run(&config),
    }
}
