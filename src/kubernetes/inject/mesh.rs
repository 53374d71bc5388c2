//! What is known of service meshes: their containers, users and ports.
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
            && mesh.images.iter().any(|prefix| begins(&container.image, prefix))
    })
}

/// Whether this container sets the pod's network up for its mesh.
pub fn sets_up(container: &Container) -> bool {
    ["istio-init", "linkerd-init"].contains(&container.name.as_str())
}

/// Whether a hook may run this command: nothing, or what the meshes' own injectors write.
pub fn may_run(command: &[String]) -> bool {
    command.first().is_none_or(|program| ["pilot-agent", "/usr/lib/linkerd/linkerd-await"].contains(&program.as_str()))
}

/// Whether the image's name begins with `prefix`, at a boundary.
fn begins(image: &str, prefix: &str) -> bool {
    image
        .strip_prefix(prefix)
        .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', ':', '@']))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_is_known_by_name_and_image() {
        let meshes = [Mesh { kind: MeshKind::Istio, images: vec!["docker.io/istio/".into(), "corp/proxyv2".into()] }];
        for (name, image, expected) in [
            ("istio-proxy", "docker.io/istio/proxyv2:1.27.0", true),
            ("istio-init", "corp/proxyv2@sha256:00", true),
            ("istio-init", "corp/proxyv2", true),
            ("istio-init", "corp/proxyv2-evil:1", false),
            ("istio-proxy", "evil.example/docker.io/istio/proxyv2", false),
            ("linkerd-proxy", "docker.io/istio/proxyv2", false),
            ("agent", "docker.io/istio/proxyv2", false),
        ] {
            let container = Container { name: name.into(), image: image.into(), ..Container::default() };
            assert_eq!(owns(&meshes, &container), expected, "{name} {image}");
            assert!(!owns(&[], &container));
        }
    }
}
