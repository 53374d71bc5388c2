//! Waits for the command as a shell would: signals reach it, and its end is ours.

use std::{
    fs::File,
    io,
    os::unix::process::ExitStatusExt,
    process::{Child, ExitCode, ExitStatus},
};

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// The signals that are passed on to the command, caught from the moment this is made.
#[derive(Debug)]
pub struct Supervision {
    ended: Signals,
    interrupt: Signals,
    quit: Signals,
    terminate: Signals,
    hang_up: Signals,
    user_1: Signals,
    user_2: Signals,
}

impl Supervision {
    /// Begins to catch signals.
    pub fn begin() -> io::Result<Self> {
        Ok(Self {
            ended: signal(SignalKind::child())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the command's end and passes signals on until then.
    pub async fn wait(&mut self, command: &mut Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(command);
        loop {
            // Asked after the signal is caught and before it is waited for, so that no end is missed.
            if let Some(status) = command.try_wait()? {
                return Ok(status);
            }
            let passed_on = tokio::select! {
                _ = self.ended.recv() => continue,
                _ = self.interrupt.recv() => Signal::INT,
                _ = self.quit.recv() => Signal::QUIT,
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hang_up.recv() => Signal::HUP,
                _ = self.user_1.recv() => Signal::USR1,
                _ = self.user_2.recv() => Signal::USR2,
            };
            // The terminal tells every process of the group; a second one would count as impatience.
            if matches!(passed_on, Signal::INT | Signal::QUIT) && in_foreground() {
                continue;
            }
            // It was not waited for yet, so that the number is still its own. It may have ended all the same.
            let _ = kill_process(pid, passed_on);
        }
    }
}

/// The command's exit code as a shell reports it.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    // An exit code has eight bits, and no signal has a number above 64.
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Whether this process group is the terminal's foreground group, and so hears its keys itself.
fn in_foreground() -> bool {
    File::open("/dev/tty")
        .is_ok_and(|terminal| rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn the_commands_end_is_noticed_and_reported() {
        let mut supervision = Supervision::begin().expect("signals can be caught");
        for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137)] {
            let mut command = Command::new("sh").args(["-c", script]).spawn().expect("a shell");
            let status = supervision.wait(&mut command).await.expect("waited");
            assert_eq!(exit_code(status), ExitCode::from(expected), "{script}");
        }
    }
}
