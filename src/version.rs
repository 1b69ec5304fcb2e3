//! The text of `--version`.

use std::sync::LazyLock;

/// Returns the version, the commit, the features, and the version of SQLite if it is built in.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let features = [
            ("shell", cfg!(feature = "shell")),
            ("osquery-rust-ng", cfg!(feature = "osquery-rust-ng")),
        ];
        let built_in = features.iter().filter(|(_, is_built_in)| *is_built_in);
        let names: Vec<&str> = built_in.map(|(name, _)| *name).collect();
        let features = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let (version, commit) =
            (env!("CARGO_PKG_VERSION"), option_env!("COMMIT").unwrap_or("unknown"));
        format!("{version} (commit {commit}; features: {features}{})", sqlite())
    });
    &VERSION
}

#[cfg(feature = "shell")]
fn sqlite() -> String {
    format!("; SQLite {}", crate::shell::sqlite_version())
}

#[cfg(not(feature = "shell"))]
fn sqlite() -> &'static str {
    ""
}
