//! The subcommands `query` and `schema`: output and exit status of the binary.

#![cfg(feature = "shell")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

const ONE_ROW: &str = "SELECT 1 AS a, 'x y' AS b, NULL AS c";
const ENDLESS: &str =
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n";

fn shell() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_process_open_sockets"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn query(arguments: &[&str]) -> Output {
    shell().arg("query").args(arguments).output().unwrap()
}

/// The output of a query that succeeds without a message on stderr.
fn printed(arguments: &[&str]) -> String {
    let output = query(arguments);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments:?}");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard output and standard error of a query that failed with status 1.
fn failed(arguments: &[&str]) -> (String, String) {
    let output = query(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn query_on_stdin(sql: &[u8]) -> Output {
    let mut child = shell()
        .args(["query", "--list", "--header=false"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The shell may fail before it has read the whole input.
    let _ = child.stdin.take().unwrap().write_all(sql);
    child.wait_with_output().unwrap()
}

#[test]
fn pretty_is_the_default() {
    let frame = "\
+---+-----+---+
| a | b   | c |
+---+-----+---+
| 1 | x y |   |
+---+-----+---+
";
    assert_eq!(printed(&[ONE_ROW]), frame);
    assert_eq!(printed(&["--pretty", ONE_ROW]), frame);
}

#[test]
fn json() {
    assert_eq!(printed(&["--json", ONE_ROW]), "[\n  {\"a\":\"1\",\"b\":\"x y\",\"c\":\"\"}\n]\n");
}

#[test]
fn csv() {
    assert_eq!(printed(&["--csv", ONE_ROW]), "a,b,c\n1,x y,\n");
    assert_eq!(printed(&["--csv", "--separator", ";", ONE_ROW]), "a;b;c\n1;x y;\n");
}

#[test]
fn line() {
    assert_eq!(printed(&["--line", ONE_ROW]), "a = 1\nb = x y\nc = \n");
}

#[test]
fn list() {
    assert_eq!(printed(&["--list", ONE_ROW]), "a|b|c\n1|x y|\n");
    assert_eq!(printed(&["--list", "--separator", ", ", ONE_ROW]), "a, b, c\n1, x y, \n");
}

#[test]
fn the_header_can_be_left_out() {
    assert_eq!(printed(&["--list", "--header", ONE_ROW]), "a|b|c\n1|x y|\n");
    assert_eq!(printed(&["--list", "--header=true", ONE_ROW]), "a|b|c\n1|x y|\n");
    assert_eq!(printed(&["--list", "--header=false", ONE_ROW]), "1|x y|\n");
    assert_eq!(printed(&["--list", "--header=0", ONE_ROW]), "1|x y|\n");
    assert_eq!(printed(&["--list", "--noheader", ONE_ROW]), "1|x y|\n");
}

#[test]
fn null_can_be_shown() {
    assert_eq!(printed(&["--list", "--noheader", "--nullvalue", "NULL", ONE_ROW]), "1|x y|NULL\n");
}

#[test]
fn modes_exclude_each_other() {
    let output = query(&["--json", "--csv", ONE_ROW]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
}

const CAPTURED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/one-of-each");

#[test]
fn both_table_names_read_the_procfs_of_the_flag_or_variable() {
    for name in ["process_open_sockets", "alt_process_open_sockets"] {
        let sql = format!("SELECT count(*) FROM {name}");
        assert_eq!(printed(&["--list", "--noheader", "--procfs", CAPTURED, &sql]), "29\n");
        let mut by_variable = shell();
        by_variable.env("PROCESS_OPEN_SOCKETS_PROCFS", CAPTURED);
        let output = by_variable.args(["query", "--list", "--noheader", &sql]).output().unwrap();
        assert_eq!(output.stdout, b"29\n");
    }
}

#[test]
fn every_output_mode_prints_the_table() {
    let sql = "SELECT pid, local_address, local_port, path, state FROM process_open_sockets \
               WHERE fd = 21 OR local_port = 8001 AND pid = 200";
    let mode = |mode| printed(&[mode, "--procfs", CAPTURED, &format!("{sql} ORDER BY pid")]);
    assert_eq!(
        mode("--pretty"),
        "\
+-----+---------------+------------+--------------------+--------+
| pid | local_address | local_port | path               | state  |
+-----+---------------+------------+--------------------+--------+
| 100 |               | 0          | a path with blanks |        |
| 200 | 127.0.0.1     | 8001       |                    | LISTEN |
+-----+---------------+------------+--------------------+--------+
"
    );
    assert_eq!(
        mode("--list"),
        "pid|local_address|local_port|path|state\n100||0|a path with blanks|\n\
         200|127.0.0.1|8001||LISTEN\n"
    );
    assert_eq!(
        mode("--csv"),
        "pid,local_address,local_port,path,state\n100,,0,a path with blanks,\n\
         200,127.0.0.1,8001,,LISTEN\n"
    );
    assert_eq!(
        mode("--json"),
        "[\n  {\"pid\":\"100\",\"local_address\":\"\",\"local_port\":\"0\",\
         \"path\":\"a path with blanks\",\"state\":\"\"},\n  \
         {\"pid\":\"200\",\"local_address\":\"127.0.0.1\",\"local_port\":\"8001\",\
         \"path\":\"\",\"state\":\"LISTEN\"}\n]\n"
    );
    let line = mode("--line");
    assert!(line.contains("path = a path with blanks\n"), "{line}");
    assert!(line.ends_with("state = LISTEN\n"), "{line}");
}

/// The error of a command with wrong arguments, without the hint at the help.
fn usage_error(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    stderr.split("\n\n").next().unwrap().to_owned()
}

#[test]
fn an_invalid_procfs_is_an_error_with_its_flag_or_variable() {
    for (path, why) in [
        ("/dev", "no proc file system is mounted there (it has no 'self')"),
        ("/nonexistent", "cannot read it: No such file or directory (os error 2)"),
        ("/etc/passwd", "cannot read it: Not a directory (os error 20)"),
    ] {
        let error =
            |by| format!("process_open_sockets: error: invalid value '{path}' for '{by}': {why}");
        let by_flag = usage_error(shell().args(["query", "--procfs", path, "SELECT 1"]));
        assert_eq!(by_flag, error("--procfs <DIR>"));
        let variable = "PROCESS_OPEN_SOCKETS_PROCFS";
        let by_variable = usage_error(shell().env(variable, path).args(["query", "SELECT 1"]));
        assert_eq!(by_variable, error(variable));
        let extension = usage_error(shell().env(variable, path).args(["--socket", "/none"]));
        assert_eq!(extension, error(variable));
    }
}

#[test]
fn a_value_out_of_range_is_refused_with_its_limits() {
    for (flag, name, most) in [
        ("--snapshot-ttl-ms", "--snapshot-ttl-ms <MILLISECONDS>", 60_000),
        ("--timeout", "--timeout <SECONDS>", 86_400),
        ("--interval", "--interval <SECONDS>", 86_400),
    ] {
        for value in ["-1", "1.5", "soon", &format!("{}", most + 1)] {
            let expected = format!(
                "process_open_sockets: error: invalid value '{value}' for '{name}': not a whole \
                 number from 0 to {most}"
            );
            assert_eq!(usage_error(shell().args([flag, value])), expected);
        }
    }
}

/// The output of a query under this variable.
fn one_under(variable: &str, value: impl AsRef<OsStr>) -> String {
    let mut command = shell();
    command.env(variable, value).args(["query", "--list", "--noheader", "SELECT 1"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    String::from_utf8(output.stdout).unwrap()
}

const OF_THE_EXTENSION: [&str; 3] = [
    "PROCESS_OPEN_SOCKETS_TIMEOUT",
    "PROCESS_OPEN_SOCKETS_INTERVAL",
    "PROCESS_OPEN_SOCKETS_WHEN_GONE",
];
const OF_THE_TABLE: [&str; 4] = [
    "PROCESS_OPEN_SOCKETS_PROCFS",
    "PROCESS_OPEN_SOCKETS_SOURCE",
    "PROCESS_OPEN_SOCKETS_SNAPSHOT_TTL_MS",
    "PROCESS_OPEN_SOCKETS_FAMILIES",
];

#[test]
fn a_bad_variable_is_an_error_only_where_it_is_used() {
    let error =
        |variable| format!("process_open_sockets: error: invalid value '???' for '{variable}'");
    for variable in OF_THE_EXTENSION {
        assert_eq!(one_under(variable, "???"), "1\n");
        let extension = usage_error(shell().env(variable, "???").args(["--socket", "/none"]));
        assert!(extension.starts_with(&error(variable)), "{extension}");
    }
    for variable in OF_THE_TABLE {
        let query = usage_error(shell().env(variable, "???").args(["query", "SELECT 1"]));
        assert!(query.starts_with(&error(variable)), "{query}");
    }
    for variable in OF_THE_EXTENSION.iter().chain(&OF_THE_TABLE) {
        let schema = shell().env(variable, "???").arg("schema").output().unwrap();
        assert_eq!(schema.status.code(), Some(0), "{variable}");
    }
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    let error = usage_error(
        shell()
            .env("PROCESS_OPEN_SOCKETS_SOURCE", OsStr::from_bytes(b"\xff"))
            .args(["query", "SELECT 1"]),
    );
    assert_eq!(error, "process_open_sockets: error: PROCESS_OPEN_SOCKETS_SOURCE is not UTF-8\n");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let mut extension = shell();
    for variable in OF_THE_EXTENSION.iter().chain(&OF_THE_TABLE) {
        assert_eq!(one_under(variable, ""), "1\n", "{variable}");
        extension.env(variable, "");
    }
    let error = usage_error(extension.env("PROCESS_OPEN_SOCKETS_SOCKET", ""));
    assert!(error.starts_with("process_open_sockets: error: nothing to do"), "{error}");
}

#[test]
fn a_flag_overrides_a_variable_even_an_invalid_one() {
    let output = shell()
        .env("PROCESS_OPEN_SOCKETS_PROCFS", "/nonexistent")
        .args(["query", "--procfs", CAPTURED, "--list", "--noheader"])
        .arg("SELECT count(*) FROM process_open_sockets")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "29\n", "{:?}", output.stderr);
}

#[test]
fn the_help_names_the_variables() {
    for arguments in [&["--help"][..], &["query", "--help"]] {
        let output = shell().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8(output.stdout).unwrap();
        for variable in OF_THE_TABLE {
            assert!(help.contains(&format!("[env: {variable}=]")), "{help}");
        }
        assert!(help.contains("\nOptions of process_open_sockets:\n"), "{help}");
    }
}

#[test]
fn sql_is_read_from_standard_input() {
    let output = query_on_stdin(b"SELECT 1;\n-- a comment\nSELECT 2\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n2\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn standard_input_that_is_no_sql_is_refused() {
    for (input, complaint) in [
        (
            vec![b' '; (1 << 20) + 1],
            "process_open_sockets: error: standard input has more than 1048576 bytes",
        ),
        (
            b"SELECT 1;\0SELECT 2".to_vec(),
            "process_open_sockets: error: the SQL contains a NUL byte",
        ),
        (
            b"SELECT '\xff'".to_vec(),
            "process_open_sockets: error: cannot read SQL from standard input: stream did not",
        ),
    ] {
        let output = query_on_stdin(&input);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(complaint), "{stderr}");
        assert_eq!(output.stdout, b"");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn statements_answer_one_after_the_other() {
    let sql = "SELECT 1 AS a; CREATE TABLE t (x); INSERT INTO t VALUES (2); SELECT x FROM t;";
    assert_eq!(printed(&["--list", sql]), "a\n1\nx\n2\n");
}

#[test]
fn a_statement_without_columns_prints_nothing() {
    for mode in ["--json", "--csv", "--line", "--list", "--pretty"] {
        for sql in [";", "", "/* nothing */", "CREATE TABLE t (x)"] {
            assert_eq!(printed(&[mode, sql]), "", "{mode} {sql:?}");
        }
    }
}

#[test]
fn an_sql_error_has_the_text_of_sqlite_and_status_1() {
    let (stdout, stderr) = failed(&["SELECT missing FROM process_open_sockets"]);
    assert_eq!(
        (&*stdout, &*stderr),
        ("", "process_open_sockets: error: no such column: missing\n")
    );
    let (stdout, stderr) = failed(&["--list", "SELECT 1 AS a; SELEC 2; SELECT 3"]);
    assert_eq!(
        (&*stdout, &*stderr),
        ("a\n1\n", "process_open_sockets: error: near \"SELEC\": syntax error\n")
    );
}

#[test]
fn an_unknown_table_is_answered_with_the_tables_there_are() {
    let (_, stderr) = failed(&["SELECT * FROM nope"]);
    let events = if cfg!(target_os = "linux") {
        ", process_socket_events, process_socket_flows, socket_event_stats"
    } else {
        ""
    };
    let expected = format!(
        "process_open_sockets: error: no such table: nope (available: process_open_sockets or \
         alt_process_open_sockets{events})\n"
    );
    assert_eq!(stderr, expected);
}

#[test]
fn a_parameter_is_refused_with_an_error() {
    for sql in ["SELECT ?", "SELECT :name", "INSERT INTO t VALUES (?1)"] {
        let (stdout, stderr) = failed(&["--list", &format!("CREATE TABLE t (x); {sql}")]);
        assert_eq!(stdout, "");
        assert_eq!(
            stderr,
            "process_open_sockets: error: the SQL has a parameter such as '?', which has no value here: \
             write the value itself\n"
        );
    }
}

#[test]
fn a_flag_value_without_its_equals_sign_is_an_error() {
    for (arguments, flags) in [
        (&["--header", "false"][..], "--header=false"),
        (&["--header", "false", ONE_ROW], "--header=false"),
        #[cfg(target_os = "linux")]
        (&["--threads", "off", ONE_ROW], "--threads=off"),
        #[cfg(target_os = "linux")]
        (&["--threads", "auto", ONE_ROW], "--threads=auto"),
        #[cfg(target_os = "linux")]
        (&["off", ONE_ROW], "--header=off or --threads=off"),
    ] {
        let value = flags.rsplit('=').next().unwrap();
        assert_eq!(
            usage_error(shell().arg("query").args(arguments)),
            format!(
                "process_open_sockets: error: '{value}' is not SQL; a flag with an optional value needs \
                 '=': {flags}\n"
            )
        );
    }
}

#[test]
fn an_unknown_column_is_an_error_with_similar_names() {
    for (column, similar) in [
        ("remote_prot", " (similar: remote_port)"),
        ("s.sokcet", " (similar: socket)"),
        ("completely_different", ""),
    ] {
        let (stdout, stderr) =
            failed(&[&format!("SELECT {column} FROM process_open_sockets AS s")]);
        assert_eq!(stdout, "");
        assert_eq!(
            stderr,
            format!("process_open_sockets: error: no such column: {column}{similar}\n")
        );
    }
}

#[test]
fn sql_without_quotes_is_refused_with_a_hint() {
    assert_eq!(
        usage_error(shell().args(["query", "SELECT", "1"])),
        "process_open_sockets: error: unexpected argument '1' after the SQL: put quotes around the \
         whole SQL\n"
    );
}

#[test]
fn json_is_an_array_for_each_statement_that_has_columns() {
    let sql = "SELECT 1 AS a; CREATE TABLE t (x); SELECT x FROM t";
    assert_eq!(printed(&["--json", sql]), "[\n  {\"a\":\"1\"}\n]\n[\n]\n");
}

#[test]
fn verbose_and_rust_log_log_each_request_to_the_table() {
    let arguments = ["query", "--procfs", CAPTURED, "--list", "--noheader"];
    let sql = "SELECT fd FROM process_open_sockets WHERE pid = 100 AND fd = 21";
    let mut verbose = shell();
    verbose.args(arguments).args(["--verbose", sql]);
    let mut by_variable = shell();
    by_variable.args(arguments).arg(sql).env("RUST_LOG", "debug");
    for command in [&mut verbose, &mut by_variable] {
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"21\n");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let request = "debug: table request: pid = \"100\", fd = \"21\": rows: 1, ";
        assert!(stderr.contains(request), "{stderr}");
    }
}

/// The output of `--explain` in list mode, without the times.
#[cfg(target_os = "linux")]
fn explained(arguments: &[&str], sql: &str) -> Vec<String> {
    let flags = ["--explain", "--list", "--noheader"];
    let lines = printed(&[&flags[..], arguments, &[sql]].concat());
    let line = |line: &str| {
        let (text, milliseconds) = line.rsplit_once('|').unwrap();
        assert!(milliseconds.parse::<f64>().unwrap() >= 0.0, "{line}");
        text.to_owned()
    };
    lines.lines().map(line).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn explain_prints_constraints_plan_work_and_rows_of_requests() {
    let arguments = ["--procfs", CAPTURED, "--families=inet", "--snapshot-ttl-ms=0"];
    let tables = "tcp tcp6 udp udp6 udplite udplite6 raw raw6 icmp icmp6";
    let sources = "holders from /proc/<pid>/fd, without descriptor tables of threads; socket tables \
                   from netlink, else /proc/net";
    let of_pid = "SELECT fd FROM process_open_sockets WHERE pid = 200";
    let listening = "SELECT fd FROM process_open_sockets WHERE state = 'LISTEN'";
    assert_eq!(
        explained(&arguments, &format!("{of_pid}; SELECT 1; {listening}")),
        [
            format!(
                "pid = \"200\"|lookup of 1 processes; {sources}: {tables}; tables read a moment \
                 ago may answer|0 BPF passes, 1 walks of 1 processes, 0 processes tested, 10 socket \
                 tables, 0 dumps|2"
            ),
            format!(
                "state = \"LISTEN\"|full scan: socket tables, then holders; {sources}: tcp tcp6, \
                 as far as they match|0 BPF passes, 1 walks of 2 processes, 0 processes tested, 2 socket \
                 tables, 0 dumps|3"
            ),
        ]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn explain_prints_a_line_a_request_of_a_join() {
    let sql = "SELECT count(*) FROM (SELECT 1 AS a UNION ALL SELECT 2) CROSS JOIN \
               process_open_sockets ON local_port = a";
    let requests: Vec<String> = explained(&["--procfs", CAPTURED], sql)
        .iter()
        .map(|line| line.split('|').next().unwrap().to_owned())
        .collect();
    assert_eq!(requests, ["local_port = \"1\"", "local_port = \"2\""]);
}

#[test]
fn explain_prints_a_note_without_a_request() {
    let output = shell().args(["query", "--explain", "SELECT 1"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "process_open_sockets: note: no statement sends a request to a table\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn explain_prints_operators_as_in_sql() {
    let sql = "SELECT 1 FROM process_open_sockets \
               WHERE pid IN (1, 2) AND fd >= 3 AND fd < 9 AND local_port <> 4";
    let lines = explained(&["--procfs", CAPTURED], sql);
    let request = lines[0].split('|').next().unwrap();
    for constraint in
        ["pid = \"1\", pid = \"2\"", "fd >= \"3\"", "fd < \"9\"", "local_port <> \"4\""]
    {
        assert!(request.contains(constraint), "{request}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn explain_prints_each_value_on_a_line_by_default() {
    let sql = "SELECT count(*) FROM process_open_sockets WHERE local_port = 1";
    let lines = printed(&["--explain", "--procfs", CAPTURED, sql]);
    let names: Vec<&str> =
        lines.lines().map(|line| line.split_once(" = ").unwrap().0.trim_start()).collect();
    assert_eq!(names, ["request", "plan", "work", "rows", "milliseconds"]);
    assert!(
        printed(&["--explain", "--json", "--procfs", CAPTURED, sql]).contains("\"rows\":\"1\"")
    );
}

#[cfg(target_os = "linux")]
#[test]
fn explain_prints_requests_of_a_statement_that_fails() {
    let sql = "SELECT abs(-9223372036854775807 - count(*)) FROM process_open_sockets \
               WHERE local_port = 1 UNION ALL SELECT abs(-9223372036854775807 - 1)";
    let (stdout, stderr) = failed(&["--explain", "--csv", "--noheader", "--procfs", CAPTURED, sql]);
    assert!(stdout.starts_with("\"local_port = \"\"1\"\"\","), "{stdout}");
    assert_eq!(stderr, "process_open_sockets: error: integer overflow\n");
}

#[test]
fn an_sql_error_after_the_first_row_leaves_valid_json() {
    let sql = "SELECT abs(x) AS y FROM (SELECT 1 AS x UNION ALL SELECT -9223372036854775807 - 1)";
    let (stdout, stderr) = failed(&["--json", sql]);
    assert_eq!(
        (&*stdout, &*stderr),
        ("[\n  {\"y\":\"1\"}\n]\n", "process_open_sockets: error: integer overflow\n")
    );
}

#[test]
fn no_other_database_can_be_opened_or_written() {
    let directory = std::env::temp_dir();
    let file = directory.join(format!("process_open_sockets-{}.db", std::process::id()));
    for statement in ["ATTACH '{}' AS other", "VACUUM INTO '{}'"] {
        let (stdout, stderr) = failed(&[&statement.replace("{}", file.to_str().unwrap())]);
        assert_eq!(stdout, "");
        assert_eq!(
            stderr,
            "process_open_sockets: error: too many attached databases - max 0: this shell opens no other database\n"
        );
    }
    assert!(!file.exists());
}

#[test]
fn a_separator_that_csv_cannot_take_is_refused() {
    for separator in ["", "::", "\"", "\n", "é"] {
        let (stdout, stderr) = failed(&["--csv", "--separator", separator, ONE_ROW]);
        assert_eq!(stdout, "");
        assert!(
            stderr.starts_with("process_open_sockets: error: --separator: with --csv"),
            "{stderr}"
        );
    }
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    for mode in ["--json", "--csv", "--line", "--list"] {
        let mut child = shell()
            .args(["query", mode, ENDLESS])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1000];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{mode}");
        assert_eq!(output.status.code(), Some(0), "{mode}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = shell().args(["query", ONE_ROW]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with(
            "process_open_sockets: error: cannot write to standard output: No space left"
        ),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn schema_is_a_create_table_that_sqlite_takes() {
    let output = shell().arg("schema").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let schema = String::from_utf8(output.stdout).unwrap();
    let start = "CREATE TABLE \"process_open_sockets\" (\n  \"pid\" INTEGER,\n  \"fd\" BIGINT,\n";
    assert!(schema.starts_with(start), "{schema}");
    assert!(schema.ends_with("\n);\n"), "{schema}");
    rusqlite::Connection::open_in_memory().unwrap().execute_batch(&schema).unwrap();
}
