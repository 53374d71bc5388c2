//! Makes this program a plugin of a node, and keeps it one.
//!
//! The program is copied to where the runtime looks for plugins, and an entry is put at the end of the list that the
//! runtime uses: the first by name. The network's own installer may write that file anew at any time, so it is looked at
//! again and again. Files change by renaming, so that the runtime never reads half of one.
//!
//! When it ends, entry and program stay: a node that restarts, or whose installer is being replaced, must not start a pod
//! without its fence, and pods that ask for none pass through. The entry is taken out when that is asked for; the program
//! stays even then, because pods that run are taken down with it.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval},
};

use super::protocol::ANNOTATIONS;
use crate::{
    health::{Readiness, serve_text},
    kubernetes::fence::Fence,
};

/// Where to install, and what.
#[derive(Debug, Clone)]
pub struct Place {
    /// The users and ports that the node's pods may ask for.
    pub fence: Fence,
    /// Where the runtime finds plugins.
    pub bin_dir: PathBuf,
    /// Where the runtime finds networks.
    pub conf_dir: PathBuf,
    /// Where it is told whether the entry stands.
    pub health: Option<SocketAddr>,
    /// Whether to take the entry out instead.
    pub remove: bool,
}

/// Installs, or takes the entry out, and keeps it so until `stop` resolves.
///
/// # Errors
/// What can't be written, or an entry that could not be kept.
pub async fn run(place: &Place, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    if !place.remove {
        place.copy_program()?;
    }
    let readiness = Readiness::default();
    readiness.set(false);
    let serving = async {
        let Some(address) = place.health else { return std::future::pending().await };
        let listener = TcpListener::bind(address).await.with_context(|| format!("--health {address}"))?;
        serve_text(listener, readiness.clone(), String::new).await;
        Ok(())
    };
    tokio::select! {
        kept = place.keep(&readiness) => kept,
        served = serving => served,
        () = stop => Ok(()),
    }
}

impl Place {
    /// Ends only with an entry that was lost. Ready while it stands, or is away, as asked.
    async fn keep(&self, readiness: &Readiness) -> anyhow::Result<()> {
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut stood, mut missed) = (false, 0);
        loop {
            ticks.tick().await;
            let ensured = if self.remove { self.leave() } else { self.ensure() };
            readiness.set(ensured.is_ok());
            match ensured {
                Ok(()) => (stood, missed) = (true, 0),
                // Before it first stood it is the network that is late; afterwards pods may start without a fence.
                Err(error) if stood && missed >= LOST => return Err(error.context("the entry is lost")),
                Err(error) => {
                    tracing::warn!("the entry does not stand: {error:#}");
                    missed += 1;
                }
            }
        }
    }

    /// Takes the entry out, where there is one.
    fn leave(&self) -> anyhow::Result<()> {
        let Some(list) = self.list()? else { return Ok(()) };
        if change(&list, None)? {
            tracing::info!(list = %list.display(), "the entry is taken out");
        }
        Ok(())
    }

    fn copy_program(&self) -> anyhow::Result<()> {
        let to = self.bin_dir.join(PROGRAM);
        let beside = self.bin_dir.join(format!(".{PROGRAM}.new"));
        // The running program itself, also when its file was replaced in the meantime.
        fs::copy("/proc/self/exe", &beside).with_context(|| format!("can't write `{}`", beside.display()))?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
        fs::rename(&beside, &to).with_context(|| format!("can't write `{}`", to.display()))
    }

    fn ensure(&self) -> anyhow::Result<()> {
        let list = self.list()?.with_context(|| format!("there is no network in `{}` yet", self.conf_dir.display()))?;
        if change(&list, Some(self.entry()))? {
            tracing::info!(list = %list.display(), "the entry stands");
        }
        Ok(())
    }

    /// The file that the runtime uses.
    fn list(&self) -> anyhow::Result<Option<PathBuf>> {
        let read =
            || -> io::Result<Vec<PathBuf>> { fs::read_dir(&self.conf_dir)?.map(|entry| Ok(entry?.path())).collect() };
        let mut files = read().with_context(|| format!("can't read `{}`", self.conf_dir.display()))?;
        files.retain(|path| {
            path.extension().is_some_and(|extension| ["conf", "conflist", "json"].iter().any(|one| extension == *one))
        });
        files.sort_unstable();
        Ok(files.into_iter().next())
    }

    fn entry(&self) -> Value {
        json!({"type": PROGRAM, "capabilities": {ANNOTATIONS: true}, "uid": self.fence.uid, "exemptUids": self.fence.exempt})
    }
}

/// Puts the entry at the end of a list, or takes it out; tells whether that changed anything.
fn change(list: &Path, entry: Option<Value>) -> anyhow::Result<bool> {
    let name = list.display();
    let text = fs::read(list).with_context(|| format!("can't read `{name}`"))?;
    let before: Value = serde_json::from_slice(&text).with_context(|| format!("`{name}` is no JSON"))?;
    let mut after = before.clone();
    let plugins = after.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins =
        plugins.ok_or_else(|| anyhow!("`{name}` is a single plugin, which none can follow: make it a list"))?;
    plugins.retain(|plugin| plugin.get("type").and_then(Value::as_str) != Some(PROGRAM));
    if plugins.is_empty() {
        bail!("`{name}` has no plugin that makes a network");
    }
    plugins.extend(entry);
    if after == before {
        return Ok(false);
    }
    // Not a name that a runtime reads.
    let beside = list.with_extension("tollgate-new");
    let text = serde_json::to_vec_pretty(&after).expect("JSON that was read can be written");
    let permissions = fs::metadata(list)?.permissions();
    fs::write(&beside, text).with_context(|| format!("can't write `{}`", beside.display()))?;
    fs::set_permissions(&beside, permissions)?;
    fs::rename(&beside, list).with_context(|| format!("can't write `{name}`"))?;
    Ok(true)
}

/// The plugin's name: its file, and its type in lists.
const PROGRAM: &str = "tollgate-cni";

/// A pod that starts in between is not fenced, and its own check then keeps it from starting.
const AGAIN: Duration = Duration::from_secs(1);

/// How many times in a row the entry may be missing while its file is being written.
const LOST: u32 = 10;

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn place(dir: &Path) -> Place {
        Place { fence: Fence::default(), bin_dir: dir.into(), conf_dir: dir.into(), health: None, remove: false }
    }

    fn types(list: &Path) -> Vec<String> {
        let list: Value = serde_json::from_slice(&fs::read(list).expect("there")).expect("JSON");
        let plugins = list["plugins"].as_array().expect("a list");
        plugins.iter().map(|plugin| plugin["type"].as_str().expect("a type").to_owned()).collect()
    }

    #[test]
    fn the_entry_is_last_in_the_first_list_and_can_be_taken_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let list = dir.path().join("05-net.conflist");
        fs::write(&list, r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#).expect("written");
        fs::write(dir.path().join("10-other.conflist"), "{}").expect("written");
        let place = place(dir.path());
        place.ensure().expect("done");
        assert_eq!(types(&list), ["bridge", "tollgate-cni"]);
        assert!(!change(&list, Some(place.entry())).expect("done"), "twice changes nothing");
        change(&list, None).expect("done");
        assert_eq!(types(&list), ["bridge"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_lost_is_given_up_and_one_that_never_stood_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (place, readiness) = (place(dir.path()), Readiness::default());
        let long = AGAIN * (LOST + 5);
        tokio::time::timeout(long, place.keep(&readiness)).await.expect_err("the network may be late");
        assert!(!readiness.is_ready());

        let list = dir.path().join("10-net.conflist");
        let write = |text| fs::write(&list, text).expect("written");
        let keeping = place.keep(&readiness);
        let disturbing = async {
            write(r#"{"plugins":[{"type":"bridge"}]}"#);
            sleep(AGAIN * 3 / 2).await;
            assert!(readiness.is_ready());
            write("");
            sleep(AGAIN * 3).await;
            assert!(!readiness.is_ready(), "while it does not stand");
            write(r#"{"plugins":[{"type":"bridge"}]}"#);
            sleep(AGAIN * 2).await;
            assert!(readiness.is_ready(), "a list that was being written is no loss");
            fs::remove_file(&list).expect("there");
            sleep(AGAIN * LOST / 2).await;
            assert!(!readiness.is_ready());
            std::future::pending::<()>().await;
        };
        let lost = tokio::select! {
            lost = keeping => lost.expect_err("it does not stand"),
            () = disturbing => unreachable!("it waits for the loss"),
        };
        assert!(format!("{lost:#}").starts_with("the entry is lost: there is no network"), "{lost:#}");
    }

    #[test]
    fn what_none_can_follow_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(place(dir.path()).ensure().expect_err("none").to_string().contains("no network"));
        fs::write(dir.path().join("10-net.conf"), r#"{"type":"bridge"}"#).expect("written");
        assert!(place(dir.path()).ensure().expect_err("single").to_string().contains("make it a list"));
    }
}
