//! Sets COMMIT, the commit that `--version` prints.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PROCESS_OPEN_SOCKETS_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let commit = std::env::var("PROCESS_OPEN_SOCKETS_COMMIT").ok().filter(|it| !it.is_empty());
    let commit = commit.or_else(of_package).or_else(of_clone);
    println!("cargo:rustc-env=COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit that `cargo package` recorded in the package.
fn of_package() -> Option<String> {
    let recorded = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = recorded.split_once("\"sha1\": \"")?;
    shortened(rest.split_once('"')?.0)
}

/// The commit of this clone, for a release: each commit would rebuild the tests. Another repository around an unpacked
/// archive does not count.
fn of_clone() -> Option<String> {
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if !is_release || !Path::new(".git").exists() {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        let output = git(&["rev-parse", "--git-path", file])?;
        println!("cargo:rerun-if-changed={output}");
    }
    shortened(&git(&["rev-parse", "HEAD"])?)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn shortened(commit: &str) -> Option<String> {
    let is_hash = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    commit.get(..12).filter(|_| is_hash).map(str::to_owned)
}
