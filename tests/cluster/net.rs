//! Network namespaces on one bridge: hosts that can be cut off from one another.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// Namespaces of this process' tests have names of their own.
static MADE: AtomicU16 = AtomicU16::new(0);

/// A bridge with hosts; all of it goes away with this.
pub(crate) struct Net {
    tag: String,
    /// First three bytes of all addresses.
    prefix: String,
    hosts: usize,
}

/// Whether the command was carried out.
fn ip(args: &str) -> bool {
    let mut command = Command::new("ip");
    command
        .args(args.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn must(args: &str) {
    assert!(ip(args), "ip {args}");
}

impl Net {
    /// None (with a word) where it cannot be made; a failure where CI runs.
    pub(crate) fn make(hosts: usize) -> Option<Self> {
        let tag = format!("g{:x}{:x}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // Of 10.0.0.0/8, so that two tests at a time do not meet.
        let free = (0..64).find_map(|i| {
            let n = (std::process::id() as usize + i * 37) % (64 * 250);
            let prefix = format!("10.{}.{}", 190 + n / 250, 1 + n % 250);
            let bridge = format!("{tag}b");
            (ip(&format!("link add {bridge} type bridge")) || i > 0).then_some(())?;
            ip(&format!("addr add {prefix}.254/24 dev {bridge}")).then_some(prefix)
        });
        let Some(prefix) = free else {
            assert!(
                std::env::var_os("CI").is_none(),
                "network namespaces cannot be made: run as root, after `apt-get install iproute2`"
            );
            eprintln!("skipped: network namespaces need root and `apt-get install iproute2`");
            return None;
        };
        let net = Self { tag, prefix, hosts };
        must(&format!("link set {}b up", net.tag));
        for host in 0..hosts {
            let (name, tag) = (net.name(host), &net.tag);
            must(&format!("netns add {name}"));
            must(&format!("link add {tag}v{host} type veth peer name eth0 netns {name}"));
            must(&format!("link set {tag}v{host} master {tag}b up"));
            must(&format!("-n {name} addr add {}/24 dev eth0", net.address(host)));
            must(&format!("-n {name} link set eth0 up"));
            must(&format!("-n {name} link set lo up"));
        }
        Some(net)
    }

    fn name(&self, host: usize) -> String {
        format!("{}n{host}", self.tag)
    }

    pub(crate) fn address(&self, host: usize) -> String {
        format!("{}.{}", self.prefix, host + 1)
    }

    pub(crate) fn hosts(&self) -> usize {
        self.hosts
    }

    /// Where hosts reach what runs outside of them: an object store, exporters.
    pub(crate) fn outside(&self) -> String {
        format!("{}.254", self.prefix)
    }

    /// Starts a program on a host: what it becomes has the process id of the command. It shares this process' mounts,
    /// unlike with `ip netns exec`: a disk that is unmounted here is so for all.
    pub(crate) fn on(&self, host: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name(host)));
        command
    }

    /// Nobody reaches it, and it reaches nobody.
    pub(crate) fn cut(&self, host: usize) {
        must(&format!("link set {}v{host} down", self.tag));
    }

    /// What `from` sends to `to` is lost, if it is not already; the other way it arrives.
    pub(crate) fn lose(&self, from: usize, to: usize) {
        let (name, address) = (self.name(from), self.address(to));
        must(&format!("-n {name} route replace blackhole {address}/32"));
    }

    pub(crate) fn heal(&self) {
        for host in 0..self.hosts {
            ip(&format!("link set {}v{host} up", self.tag));
            for other in 0..self.hosts {
                let (name, address) = (self.name(host), self.address(other));
                ip(&format!("-n {name} route del blackhole {address}/32"));
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            ip(&format!("netns del {}", self.name(host)));
        }
        ip(&format!("link del {}b", self.tag));
    }
}
