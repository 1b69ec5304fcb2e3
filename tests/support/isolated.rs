//! Private namespaces for a test, in which no other process opens sockets.

use std::process::Command;

use super::left_out::report_left_out;

/// Runs a test in a private network namespace and PID namespace: in a child process that runs only this test, and
/// whose `/proc` has no other process. The child is root, or root of a user namespace. Where neither is allowed,
/// the test is reported as left out. The name of a test of a module has the module before it.
pub(crate) fn in_own_namespaces(test: &str, body: fn()) {
    const INSIDE: &str = "TEST_IN_OWN_NAMESPACES";
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success(), "ip, of iproute2, sets the loopback interface up");
        return body();
    }
    let unshare = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.args(command).env(INSIDE, test).output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        let (_, name) = test.rsplit_once("::").unwrap_or(("", test));
        return report_left_out(name, "needs root: namespaces need CAP_SYS_ADMIN");
    }
    let program = std::env::current_exe().unwrap();
    let output = unshare(&[program.to_str().unwrap(), "--exact", test, "--nocapture"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    // The report has to pass the capture of this process, too.
    for line in log.lines().filter_map(|line| line.strip_prefix("LEFT OUT: ")) {
        let (test, why) = line.split_once(": ").unwrap();
        report_left_out(test, why);
    }
    eprint!("{text}{log}");
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} failed in the private namespaces"
    );
}
