//! A network of one node's own, and two ways into it: one for its clients, one to PostgreSQL.
//!
//! The second can be taken away. What is sent then is lost, on both sides, and nobody is told.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::apt;
use crate::sh::{self, Outcome};

const PREFIX: &str = "leadr-auth-rev-";

/// A network namespace. It goes when this value is dropped.
pub(crate) struct Network {
    name: String,
    clients: Pair,
    store: Pair,
}

/// Two interfaces that are one cable.
struct Pair {
    outside: String,
    inside: String,
    outer: Ipv4Addr,
    inner: Ipv4Addr,
}

impl Network {
    /// Whether one can be made here.
    pub(crate) fn is_possible() -> bool {
        apt::is_root() && sh::find("ip").is_some()
    }

    pub(crate) fn new() -> Outcome<Self> {
        sweep();
        let pid = std::process::id();
        // The addresses follow from the process's number, so that two of these do not meet.
        let [.., high, low] = pid.to_be_bytes();
        let pair = |letter: char, at: u8| Pair {
            outside: format!("lr{}{letter}o", pid % 1_000_000),
            inside: format!("lr{}{letter}i", pid % 1_000_000),
            outer: Ipv4Addr::new(10, 0xc0 | high & 0x3f, low, at + 1),
            inner: Ipv4Addr::new(10, 0xc0 | high & 0x3f, low, at + 2),
        };
        let network = Self {
            name: format!("{PREFIX}{pid}"),
            clients: pair('c', 0),
            store: pair('s', 4),
        };
        ip(&["netns", "add", &network.name])?;
        ip(&["-n", &network.name, "link", "set", "lo", "up"])?;
        network.clients.lay(&network.name)?;
        network.store.lay(&network.name)?;
        Ok(network)
    }

    /// What a program is run under to be inside.
    pub(crate) fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// Where clients find the node.
    pub(crate) const fn node(&self) -> Ipv4Addr {
        self.clients.inner
    }

    /// Where the node finds PostgreSQL.
    pub(crate) const fn store(&self) -> Ipv4Addr {
        self.store.outer
    }

    /// From where it comes to PostgreSQL.
    pub(crate) fn addresses(&self) -> String {
        format!("{}/32", self.store.inner)
    }

    pub(crate) fn cut(&self) -> Outcome {
        ip(&["link", "set", &self.store.outside, "down"])
    }

    pub(crate) fn mend(&self) -> Outcome {
        ip(&["link", "set", &self.store.outside, "up"])
    }
}

impl Pair {
    fn lay(&self, network: &str) -> Outcome {
        let Self {
            outside, inside, ..
        } = self;
        let outer = format!("{}/30", self.outer);
        let inner = format!("{}/30", self.inner);
        ip(&[
            "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", network,
        ])?;
        ip(&["addr", "add", &outer, "dev", outside])?;
        ip(&["link", "set", outside, "up"])?;
        ip(&["-n", network, "addr", "add", &inner, "dev", inside])?;
        ip(&["-n", network, "link", "set", inside, "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // With the namespace go the interfaces in it, and with each the other end of its cable.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Outcome {
    sh::run(command().args(arguments))
}

fn command() -> Command {
    sh::command("ip")
}

/// Takes away what killed runs have left.
fn sweep() {
    for line in sh::output(command().args(["netns", "list"]))
        .unwrap_or_default()
        .lines()
    {
        let name = line.split_whitespace().next().unwrap_or_default();
        let Some(pid) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            let _ = ip(&["netns", "del", name]);
        }
    }
}
