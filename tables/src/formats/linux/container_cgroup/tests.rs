use super::*;

#[test]
fn a_name_of_a_machine_is_a_host_name() {
    for (name, id) in [
        (r"machine-a\x2db.scope", Some("a-b")),
        ("machine-a.b.scope", Some("a.b")),
        ("systemd-nspawn@a-b.service", Some("a-b")),
        // A scope has an escaped dash.
        ("machine-a-b.scope", None),
        (r"machine-a\x2d.scope", None),
        ("machine-a..b.scope", None),
        ("machine-.scope", None),
        (r"machine-a\x2.scope", None),
        (r"machine-a\x00.scope", None),
        (r"machine-a\xffb.scope", None),
        (r"machine-\xe4\xb8\xad.scope", None),
        (r"systemd-nspawn@a\x2db.service", None),
    ] {
        let found = machine(name);
        assert_eq!(found.as_ref().map(|(id, _)| &**id), id, "{name}");
    }
    let long = "a".repeat(65);
    assert_eq!(machine(&format!("machine-{long}.scope")), None);
    assert!(machine(&format!("machine-{}.scope", &long[1..])).is_some());
}

#[test]
fn only_a_numbered_name_is_one_of_libvirt() {
    for (name, found) in [
        (r"machine-qemu\x2d1\x2da.scope", None),
        (r"machine-qemu\x2da.scope", Some(("qemu-a", SystemdNspawn))),
        (r"machine-lxc\x2d7\x2da.scope", Some(("lxc-7-a", LibvirtLxc))),
        (r"machine-lxc\x2da.scope", Some(("lxc-a", SystemdNspawn))),
        ("systemd-nspawn@qemu-1-a.service", Some(("qemu-1-a", SystemdNspawn))),
    ] {
        let id = machine(name);
        assert_eq!(id.as_ref().map(|(id, runtime)| (&**id, *runtime)), found, "{name}");
    }
}

#[test]
fn a_name_of_lxc_has_at_most_128_bytes() {
    let name = "a".repeat(129);
    assert_eq!(lxc("lxc", &name), None);
    assert_eq!(lxc("lxc", &name[1..]), Some((name[1..].into(), Lxc)));
}

#[test]
fn a_container_and_its_pod_can_be_in_one_component() {
    let id = "0123456789abcdef".repeat(4);
    let path =
        format!("/kubepods-pod87a18a64_b74a_454a_b10b_a4a36059d0a3.slice:cri-containerd:{id}");
    let found = container(path.as_bytes());
    assert_eq!(found.id.as_deref(), Some(&*id));
    assert_eq!(found.pod_uid.as_deref(), Some("87a18a64-b74a-454a-b10b-a4a36059d0a3"));
    assert_eq!(depth(path.as_bytes()), (1, 1));
}
