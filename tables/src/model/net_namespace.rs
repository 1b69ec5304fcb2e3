//! Network namespaces.

use std::collections::HashMap;
use std::sync::Arc;

/// The network namespace of a socket: the number in the link text `net:[4026531840]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NetNamespace(pub(crate) u64);

/// The names of the network namespaces that have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetNamespaceNames(Arc<HashMap<NetNamespace, String>>);

impl NetNamespaceNames {
    #[cfg(target_os = "linux")]
    pub(crate) fn new(names: HashMap<NetNamespace, String>) -> NetNamespaceNames {
        NetNamespaceNames(Arc::new(names))
    }

    /// The name of the namespace; empty if it has none.
    pub(crate) fn of(&self, namespace: Option<NetNamespace>) -> &str {
        namespace.and_then(|namespace| self.0.get(&namespace)).map_or("", String::as_str)
    }
}
