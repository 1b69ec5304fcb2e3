//! The container that a process or a socket belongs to.

/// What the path of a control group says of containers. A name of a control group is untrusted input: a user who may
/// make control groups can imitate any of these names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    /// The innermost container: 64 lowercase hexadecimal digits, or the name of an LXC container or a machine.
    pub(crate) id: Option<Box<str>>,
    /// None also if the path names a container, but not its runtime.
    pub(crate) runtime: Option<ContainerRuntime>,
    /// The innermost pod of Kubernetes, in the form of its API.
    pub(crate) pod_uid: Option<Box<str>>,
}

/// The program that manages a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerRuntime {
    Docker,
    Containerd,
    CriO,
    Podman,
    Lxc,
    SystemdNspawn,
    LibvirtLxc,
}

impl ContainerRuntime {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ContainerRuntime::Docker => "docker",
            ContainerRuntime::Containerd => "containerd",
            ContainerRuntime::CriO => "cri-o",
            ContainerRuntime::Podman => "podman",
            ContainerRuntime::Lxc => "lxc",
            ContainerRuntime::SystemdNspawn => "systemd-nspawn",
            ContainerRuntime::LibvirtLxc => "libvirt-lxc",
        }
    }
}
