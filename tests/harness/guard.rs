//! Ends processes that a script started on its own, in sessions of their own, with the test that asked for them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Reads until whoever holds the other end of the pipe is gone, then ends every process with `DATA=` of the folder in its
/// environment, as it was started. One that is started meanwhile is found at the next look.
const SCRIPT: &str = r#"
cat >/dev/null
while left=$(grep -lzxF "DATA=$0" /proc/[0-9]*/environ 2>/dev/null); [ -n "$left" ]; do
  for id in $(echo "$left" | cut -d/ -f3); do kill -9 "$id" 2>/dev/null; done
  sleep 0.05
done
"#;

/// A process that waits for this one to end, by whatever that is, and ends what is left of a script then: the script
/// itself, and what came of it, all of which have `DATA=` of a folder, that is this test's alone, in their environment.
/// Dropped, it does so at once.
pub struct Guard(Child);

impl Guard {
    pub fn of(data: &Path) -> Self {
        Self::while_open(data, Stdio::piped())
    }

    /// The same, for as long as this can be read.
    pub fn while_open(data: &Path, open: Stdio) -> Self {
        let mut command = Command::new("sh");
        // In a group of its own: what ends a test ends its group.
        let guard = command
            .args(["-c", SCRIPT])
            .arg(data)
            .env_remove("DATA")
            .stdin(open)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Self(guard.spawn().expect("sh"))
    }

    /// Waits until nothing is left.
    pub fn ended(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ended();
    }
}
