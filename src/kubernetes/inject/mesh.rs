//! What is known of service meshes: their containers, what these run, their users and ports.
//!
//! A container is a mesh's only if its name and its image both say so, and only where the platform names the mesh. A
//! name alone is a claim of whoever wrote the pod.

use super::{
    pod::Container,
    settings::{Mesh, MeshKind},
};

/// Whether this container is one of a configured mesh.
pub fn owns(meshes: &[Mesh], container: &Container) -> bool {
    meshes.iter().any(|mesh| {
        containers(mesh.kind).contains(&container.name.as_str())
            && mesh.images.iter().any(|name| is_of(&container.image, name))
    })
}

/// Whether this container sets the pod's network up for its mesh.
pub fn sets_up(container: &Container) -> bool {
    ["istio-init", "linkerd-init"].contains(&container.name.as_str())
}

/// How many of the containers that run first belong to a mesh, up to the last one that sets the network up.
pub fn set_up_first(meshes: &[Mesh], first: &[Container]) -> usize {
    let own = first.iter().take_while(|container| owns(meshes, container)).enumerate();
    own.filter(|(_, container)| sets_up(container)).last().map_or(0, |(index, _)| index + 1)
}

/// Whether a mesh's container runs the program of its image, or what its mesh's injector names.
pub fn runs_its_own(container: &Container) -> bool {
    container.command.is_empty()
        || (container.name == "linkerd-network-validator" && container.command == [LINKERD_VALIDATOR])
}

/// Whether the first argument is one that the mesh's injector writes. Istio's images choose what to run by it.
pub fn is_told_its_own(container: &Container) -> bool {
    let first = container.args.first().map(String::as_str);
    match container.name.as_str() {
        "istio-init" | "istio-validation" => first == Some("istio-iptables"),
        "istio-proxy" => first == Some("proxy"),
        _ => first.is_none_or(|first| first.starts_with('-')),
    }
}

/// Whether a hook after the start may run this command: nothing, or what the meshes' own injectors write.
pub fn may_begin_with(command: &[String]) -> bool {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    match command[..] {
        [] | ["pilot-agent", "wait"] => true,
        // Anything else would be a command to run after the wait.
        [program, ref flags @ ..] => {
            program == LINKERD_AWAIT && flags.iter().all(|flag| flag.starts_with("--") && flag.contains('='))
        }
    }
}

/// The same of a hook before the end.
pub fn may_end_with(command: &[String]) -> bool {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    match command[..] {
        [] | ["/bin/sleep", _] | ["pilot-agent", "request", "POST", "drain"] => true,
        ["pilot-agent", "request", flag, "POST", "drain"] => flag.starts_with("--debug-port="),
        _ => false,
    }
}

/// Whether an image has this name, with a tag, a digest or neither.
fn is_of(image: &str, name: &str) -> bool {
    // What follows a colon may be a registry's port, so that another name follows.
    image
        .strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || (rest.starts_with([':', '@']) && !rest.contains('/')))
}

/// As people call it.
pub fn name(kind: MeshKind) -> &'static str {
    match kind {
        MeshKind::Istio => "Istio",
        MeshKind::Linkerd => "Linkerd",
    }
}

/// The user of its proxy.
pub fn uid(kind: MeshKind) -> u32 {
    match kind {
        MeshKind::Istio => 1337,
        MeshKind::Linkerd => 2102,
    }
}

/// The ports that its proxy opens inside the pod.
pub fn ports(kind: MeshKind) -> &'static [u16] {
    match kind {
        MeshKind::Istio => &[15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090],
        MeshKind::Linkerd => &[4140, 4143, 4190, 4191],
    }
}

fn containers(kind: MeshKind) -> &'static [&'static str] {
    match kind {
        MeshKind::Istio => &["istio-init", "istio-proxy", "istio-validation"],
        MeshKind::Linkerd => &["linkerd-init", "linkerd-proxy", "linkerd-network-validator"],
    }
}

const LINKERD_AWAIT: &str = "/usr/lib/linkerd/linkerd-await";
const LINKERD_VALIDATOR: &str = "/usr/lib/linkerd/linkerd2-network-validator";

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, image: &str) -> Container {
        Container { name: name.into(), image: image.into(), ..Container::default() }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_mesh_is_known_by_name_and_image() {
        let meshes = [Mesh { kind: MeshKind::Istio, images: vec!["docker.io/istio/proxyv2".into(), "proxyv2".into()] }];
        for (name, image, expected) in [
            ("istio-proxy", "docker.io/istio/proxyv2:1.27.0", true),
            ("istio-init", "docker.io/istio/proxyv2:1.27.0@sha256:00", true),
            ("istio-init", "proxyv2@sha256:00", true),
            ("istio-init", "proxyv2", true),
            ("istio-init", "docker.io/istio/proxyv2-evil:1", false),
            ("istio-init", "docker.io/istio/base:1", false),
            ("istio-init", "docker.io/istio/proxyv2/evil:1", false),
            // A registry with a port.
            ("istio-init", "proxyv2:5000/evil", false),
            ("istio-proxy", "evil.example/docker.io/istio/proxyv2", false),
            ("linkerd-proxy", "docker.io/istio/proxyv2", false),
            ("agent", "docker.io/istio/proxyv2", false),
        ] {
            assert_eq!(owns(&meshes, &named(name, image)), expected, "{name} {image}");
            assert!(!owns(&[], &named(name, image)));
        }
    }

    #[test]
    fn the_network_is_looked_at_after_what_a_mesh_sets_up_first() {
        let meshes = [Mesh { kind: MeshKind::Istio, images: vec!["p".into()] }];
        let (init, proxy, agent) = (named("istio-init", "p"), named("istio-proxy", "p"), named("a", "a"));
        for (first, expected) in [
            (vec![], 0),
            (vec![&agent, &init], 0),
            (vec![&init], 1),
            (vec![&init, &proxy, &agent], 1),
            (vec![&proxy, &init, &agent], 2),
            (vec![&proxy], 0),
        ] {
            let first: Vec<Container> = first.into_iter().cloned().collect();
            assert_eq!(set_up_first(&meshes, &first), expected, "{first:?}");
        }
    }

    #[test]
    fn a_meshs_container_is_told_what_its_injector_tells_it() {
        for (name, arguments, expected) in [
            ("istio-init", "istio-iptables -p 15001", true),
            ("istio-validation", "istio-iptables --run-validation", true),
            ("istio-init", "", false),
            ("istio-init", "sh -c id", false),
            ("istio-proxy", "proxy sidecar", true),
            ("istio-proxy", "istio-iptables", false),
            ("istio-proxy", "", false),
            ("linkerd-init", "--incoming-proxy-port 4143", true),
            ("linkerd-proxy", "", true),
            ("linkerd-proxy", "sh", false),
        ] {
            let container = Container { args: words(arguments), ..named(name, "p") };
            assert_eq!(is_told_its_own(&container), expected, "{name} {arguments}");
        }
        for (name, command, expected) in [
            ("istio-proxy", "", true),
            ("istio-proxy", "sh", false),
            ("istio-proxy", LINKERD_VALIDATOR, false),
            ("linkerd-network-validator", LINKERD_VALIDATOR, true),
            ("linkerd-network-validator", "/bin/sh", false),
        ] {
            let container = Container { command: words(command), ..named(name, "p") };
            assert_eq!(runs_its_own(&container), expected, "{name} {command}");
        }
    }

    #[test]
    fn hooks_run_what_the_meshes_write_and_nothing_behind_it() {
        for (command, begins, ends) in [
            ("", true, true),
            ("pilot-agent wait", true, false),
            ("pilot-agent request --debug-port=15020 POST drain", false, true),
            ("pilot-agent request POST drain", false, true),
            ("pilot-agent request POST quitquitquit", false, false),
            ("pilot-agent istio-iptables --cleanup", false, false),
            ("/usr/lib/linkerd/linkerd-await", true, false),
            ("/usr/lib/linkerd/linkerd-await --timeout=2m --port=4191", true, false),
            ("/usr/lib/linkerd/linkerd-await --timeout=2m -- curl evil.example", false, false),
            ("/usr/lib/linkerd/linkerd-await curl", false, false),
            ("/bin/sleep 20", false, true),
            ("sh -c id", false, false),
        ] {
            let command = words(command);
            assert_eq!((may_begin_with(&command), may_end_with(&command)), (begins, ends), "{command:?}");
        }
    }
}
