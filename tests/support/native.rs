//! Built-in tables of the stand-in core.

use tables::{
    Column, ColumnOptions, ColumnType, Error, Operator, QueryContext, Rows, Table, Value,
};

type Cells = Vec<Vec<Value<'static>>>;

/// A table with a function that collects its rows.
pub(crate) struct Native {
    columns: Vec<Column>,
    collect: Box<dyn Fn(&QueryContext) -> Cells + Send + Sync>,
}

struct Listed(Cells);

impl Rows for Listed {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, row: usize) -> i64 {
        i64::try_from(row).expect("a row number")
    }
    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        self.0.get(row).and_then(|row| row.get(column)).cloned().unwrap_or(Value::Null)
    }
}

impl Table for Native {
    fn name(&self) -> &str {
        "native"
    }
    fn description(&self) -> &str {
        "Rows of a test"
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Listed((self.collect)(query))))
    }
}

fn column(name: &'static str, kind: ColumnType, options: ColumnOptions) -> Column {
    Column { name, kind, options }
}

fn text(text: &str) -> Value<'static> {
    Value::Text(text.to_owned().into())
}

/// A table without rows, which only takes a name.
pub(crate) fn empty() -> Native {
    Native {
        columns: vec![column("pid", ColumnType::Integer, ColumnOptions::INDEX)],
        collect: Box::new(|_| Vec::new()),
    }
}

/// `osquery_registry` with its rows of tables: the name, and the uuid of the extension.
pub(crate) fn registry(tables: Vec<(String, i64)>) -> Native {
    Native {
        columns: vec![
            column("registry", ColumnType::Text, ColumnOptions::empty()),
            column("name", ColumnType::Text, ColumnOptions::empty()),
            column("owner_uuid", ColumnType::Integer, ColumnOptions::empty()),
            column("internal", ColumnType::Integer, ColumnOptions::empty()),
            column("active", ColumnType::Integer, ColumnOptions::empty()),
        ],
        collect: Box::new(move |_| {
            let row = |(name, owner): &(String, i64)| {
                let owner = Value::Integer(*owner);
                vec![text("table"), text(name), owner, Value::Integer(0), Value::Integer(1)]
            };
            tables.iter().map(row).collect()
        }),
    }
}

/// `processes` with the columns that tests use.
pub(crate) fn processes() -> Native {
    Native {
        columns: vec![
            column("pid", ColumnType::Integer, ColumnOptions::INDEX),
            column("name", ColumnType::Text, ColumnOptions::empty()),
            column("parent", ColumnType::BigInt, ColumnOptions::empty()),
            column("path", ColumnType::Text, ColumnOptions::empty()),
            column("cmdline", ColumnType::Text, ColumnOptions::empty()),
            column("cgroup_path", ColumnType::Text, ColumnOptions::empty()),
        ],
        collect: Box::new(|query| {
            let selected: Vec<&str> = query
                .constraints
                .iter()
                .filter(|constraint| {
                    constraint.column == 0 && constraint.operator == Operator::Equals
                })
                .map(|constraint| constraint.text.as_str())
                .collect();
            std::fs::read_dir("/proc")
                .expect("a mount of proc")
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|pid| selected.is_empty() || selected.contains(&pid.as_str()))
                .filter_map(|pid| process(&pid))
                .collect()
        }),
    }
}

/// Reads `PID (NAME) STATE PARENT ...`; the name may contain any bytes.
fn process(pid: &str) -> Option<Vec<Value<'static>>> {
    let number = pid.parse().ok()?;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let cmdline = String::from_utf8_lossy(&cmdline).trim_end_matches('\0').replace('\0', " ");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    Some(vec![
        Value::Integer(number),
        text(name),
        Value::Integer(parent),
        text(&path.to_string_lossy()),
        text(&cmdline),
        text(cgroup),
    ])
}
