//! The files of `packaging`: the names in them, the list of extensions, and the capabilities of the sidecar.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use support::left_out::is_root_or_report;
use support::sleeper::Sleeper;

const UNIT: &str = include_str!("../packaging/systemd/process_open_sockets.service");
const EXTENSION: &str = "/usr/lib/osquery/extensions/process_open_sockets.ext";

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The variables of `packaging/names`.
fn names() -> BTreeMap<String, String> {
    let text = fs::read_to_string(tree().join("packaging/names")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}

/// The files of the repository that people read or copy.
fn texts() -> Vec<(PathBuf, String)> {
    // git reads a tree of another owner only if it is declared safe.
    let list = ["-c", "safe.directory=*", "ls-files", "-z"];
    let listed = Command::new("git").args(list).current_dir(tree()).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).unwrap();
    let is_read = |path: &&str| {
        !path.is_empty() && !path.starts_with("fixtures/") && *path != "packaging/names"
    };
    let paths: Vec<PathBuf> = paths.split('\0').filter(is_read).map(PathBuf::from).collect();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(tree().join(&path)).ok()?;
        Some((path, text))
    };
    paths.into_iter().filter_map(read).collect()
}

/// The words of a text, without the quotes and brackets around them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || "\"'`()<>,;".contains(c)).filter(|it| !it.is_empty())
}

#[test]
fn each_file_repeats_the_names_of_packaging_names() {
    let names = names();
    let (repository, image) = (&names["REPOSITORY"], &names["IMAGE"]);
    let (maintainer, identifier) = (&names["MAINTAINER"], &names["IDENTIFIER"]);
    let is_here =
        |word: &str, host: &str| word.starts_with(host) && word.contains("/process_open_");
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (path, text) in texts().iter().filter(|(path, _)| !path.ends_with("tests/packaging.rs")) {
        let is_mac = path.starts_with("packaging/macos");
        for word in words(text) {
            let expected = if is_here(word, "https://github.com/") {
                repository
            } else if is_here(word, "ghcr.io/") {
                image
            } else if is_mac && word.starts_with("org.") {
                identifier
            } else {
                continue;
            };
            compared += 1;
            if !word.starts_with(expected.as_str()) {
                wrong.push(format!("{}: {word}, not {expected}", path.display()));
            }
        }
        let manifest =
            text.lines().filter(|line| path.ends_with("Cargo.toml") && line.contains('@'));
        let other = manifest.filter(|line| !line.contains(maintainer.as_str()));
        wrong.extend(other.map(|line| format!("{}: {line}, not {maintainer}", path.display())));
    }
    assert!(wrong.is_empty(), "not as in packaging/names:\n{}", wrong.join("\n"));
    assert!(compared >= 10, "{compared} names");
}

/// Runs `packaging/extensions-load` on a list.
fn extensions_load(action: &str, list: &Path) {
    let script = tree().join("packaging/extensions-load");
    let status = Command::new("sh").arg(script).arg(action).arg(list).status().unwrap();
    assert!(status.success(), "{action}: {status}");
}

#[test]
fn the_list_of_extensions_keeps_all_else() {
    let folder = tempfile::tempdir().unwrap();
    let (list, link) = (folder.path().join("real"), folder.path().join("extensions.load"));
    let before = "# Mine\n; \n/opt/with blank.ext\n\n  /opt/other.ext \n#/usr/lib/x";
    fs::write(&list, before).unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real", &link).unwrap();
    let state = || {
        let metadata = fs::metadata(&list).unwrap();
        (metadata.ino(), metadata.mode(), metadata.uid(), fs::read_link(&link).unwrap())
    };
    let first = state();
    extensions_load("add", &link);
    extensions_load("add", &link);
    assert_eq!(fs::read_to_string(&list).unwrap(), format!("{before}\n{EXTENSION}\n"));
    extensions_load("remove", &link);
    extensions_load("remove", &link);
    assert_eq!(fs::read_to_string(&list).unwrap(), format!("{before}\n"));
    assert_eq!(state(), first);
}

#[test]
fn a_line_with_blanks_counts_and_a_comment_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("extensions.load");
    for (text, added) in [
        (format!("  {EXTENSION}\t\r\n"), ""),
        (format!("#{EXTENSION}\n"), EXTENSION),
        (format!("{EXTENSION}.old\n"), EXTENSION),
    ] {
        fs::write(&list, &text).unwrap();
        extensions_load("add", &list);
        let line = if added.is_empty() { String::new() } else { format!("{added}\n") };
        assert_eq!(fs::read_to_string(&list).unwrap(), format!("{text}{line}"));
    }
}

#[test]
fn a_list_made_for_the_extension_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("osquery/extensions.load");
    extensions_load("add", &list);
    let text = fs::read_to_string(&list).unwrap();
    assert!(text.starts_with('#') && text.ends_with(&format!("\n{EXTENSION}\n")), "{text}");
    extensions_load("remove", &list);
    assert!(!folder.path().join("osquery").exists());
}

#[test]
fn a_list_made_for_the_extension_stays_with_another_line() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("extensions.load");
    extensions_load("add", &list);
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, format!("{text}/opt/other.ext\n")).unwrap();
    extensions_load("remove", &list);
    let text = fs::read_to_string(&list).unwrap();
    assert!(text.ends_with("\n/opt/other.ext\n") && !text.contains(EXTENSION), "{text}");
}

/// The capabilities of the sidecar's unit, in lower case without the prefix.
fn capabilities() -> Vec<String> {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.unwrap().split(' ');
    names.map(|name| name.strip_prefix("CAP_").unwrap().to_ascii_lowercase()).collect()
}

#[test]
fn every_example_gives_the_capabilities_of_the_unit() {
    let names: Vec<String> = capabilities().iter().map(|name| name.to_ascii_uppercase()).collect();
    let lists = [
        (include_str!("../packaging/kubernetes/daemonset.yaml"), " - ", "\n"),
        (include_str!("../docs/install.md"), "--cap-add=", " \n"),
    ];
    let is_name = |name: &&str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    for (text, before, after) in lists {
        let rest = text.split(before).skip(1);
        let found = rest.filter_map(|rest| rest.split(|c| after.contains(c)).next());
        let found: Vec<&str> = found.filter(is_name).filter(|name| *name != "ALL").collect();
        assert_eq!(found, names);
    }
    let compose = include_str!("../packaging/docker/compose.yaml");
    assert!(compose.contains(&format!("cap_add: [{}]", names.join(", "))));
    let page = include_str!("../docs/configuration.md");
    for name in capabilities() {
        assert!(page.contains(&format!("CAP_{}", name.to_ascii_uppercase())), "{name}");
    }
}

/// A network namespace that only a mount keeps.
struct Mounted(tempfile::NamedTempFile);

impl Mounted {
    fn new() -> Mounted {
        let file = tempfile::NamedTempFile::new().unwrap();
        let net = format!("--net={}", file.path().display());
        let up = ["ip", "link", "set", "lo", "up"];
        assert!(Command::new("unshare").arg(net).args(up).status().unwrap().success());
        Mounted(file)
    }

    fn listen(&self) -> TcpListener {
        let namespace = File::open(self.0.path()).unwrap();
        let listen = move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap()
        };
        std::thread::spawn(listen).join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// The pids of the rows of a socket, as the program prints them with these capabilities.
fn holders(capabilities: &[String], source: &str, listener: &TcpListener) -> Vec<String> {
    let socket = rustix::fs::fstat(listener).unwrap().st_ino;
    let set: Vec<String> = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let output = Command::new("setpriv")
        .args([
            &format!("--bounding-set=-all{}", set.concat()),
            "--inh-caps=-all",
            "--no-new-privs",
        ])
        .arg(env!("CARGO_BIN_EXE_process_open_sockets"))
        .args(["query", "--json", "--source", source])
        .arg(format!("SELECT DISTINCT pid FROM process_open_sockets WHERE socket = {socket}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<BTreeMap<String, Value>> = serde_json::from_slice(&output.stdout).unwrap();
    rows.iter().map(|row| row["pid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_sidecar_s_capabilities_show_every_socket_and_holder() {
    let test = "the_sidecar_s_capabilities_show_every_socket_and_holder";
    if !is_root_or_report(test, "the sets of capabilities") {
        return;
    }
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut user = Command::new("setpriv");
    user.args(["--reuid=1234", "--regid=1234", "--clear-groups", "sleep", "600"]);
    let user = user.stdin(Stdio::from(std::os::fd::OwnedFd::from(other.try_clone().unwrap())));
    let user = Sleeper(user.spawn().unwrap());
    let mounted = Mounted::new();
    let inside = mounted.listen();
    let (me, user_s) = (std::process::id().to_string(), user.pid().to_string());
    let six = capabilities();
    assert_eq!(six.len(), 6);
    for source in ["bpf", "netlink", "procfs"] {
        // A child of another test can hold them, too, between fork and exec.
        assert!(holders(&six, source, &own).contains(&me), "{source}");
        assert!(holders(&six, source, &other).contains(&user_s), "{source}");
        assert!(holders(&six, source, &inside).contains(&me), "{source}");
    }
    // Otherwise setpriv has no effect.
    assert!(!holders(&[], "procfs", &other).contains(&user_s));
}
