use std::path::Path;

use super::*;
use crate::kubernetes::{ANNOTATION_ORCHESTRATOR, ANNOTATION_TASK};

fn config(more: &str) -> Config {
    Config::parse(&format!("image: registry/tollgate:1\n{more}"), Path::new(""), "f", &|_| None).unwrap()
}

fn injected(pod: &Value, config: &Config) -> Injected {
    match inject(pod, "agents", config) {
        Ok(Outcome::Inject(injected)) => injected,
        other => panic!("{other:?}"),
    }
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    pod["spec"][list].as_array().into_iter().flatten().map(|entry| pod::name(entry).to_owned()).collect()
}

fn agent() -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}, "annotations": {"team": "x"}},
        "spec": {
            "futureField": {"kept": true},
            "initContainers": [{"name": "prepare", "image": "p", "newField": 1}],
            "containers": [{"name": "agent", "image": "a", "env": [{"name": "SSL_CERT_FILE", "value": "/own.pem"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

#[test]
fn each_way_of_capture_has_its_containers_in_their_order() {
    for (more, init, containers) in [
        ("", vec!["tollgate-fence", "tollgate", "tollgate-fence-check", "prepare"], vec!["agent"]),
        ("capture: cni", vec!["tollgate", "tollgate-fence-check", "prepare"], vec!["agent"]),
        ("capture: proxy", vec!["tollgate", "prepare"], vec!["agent"]),
        ("native: false", vec!["tollgate-fence", "tollgate-fence-check", "prepare"], vec!["tollgate", "agent"]),
        ("{capture: proxy, cluster_version: '1.28'}", vec!["prepare"], vec!["tollgate", "agent"]),
    ] {
        let more = more.trim_start_matches('{').trim_end_matches('}').replace(", ", "\n");
        let pod = injected(&agent(), &config(&more)).pod;
        assert_eq!(
            (names(&pod, INIT_CONTAINERS), names(&pod, CONTAINERS)),
            (owned(&init), owned(&containers)),
            "{more}"
        );
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn injecting_twice_changes_nothing() {
    for more in ["", "capture: cni", "capture: proxy", "native: false", "agent: {privileges: lower}"] {
        let config = config(more);
        let once = injected(&agent(), &config);
        assert_eq!(injected(&once.pod, &config), once, "{more}");
    }
}

#[test]
fn another_injector_takes_the_place_of_the_first() {
    let ways = [
        "capture: init\nsidecar: {secrets: [{name: s, secret: s}]}",
        "capture: cni\nexempt_uids: [4711]",
        "capture: proxy",
        "capture: proxy\nports: {proxy: 16001}\nagent: {no_proxy: [a, b c]}",
        "capture: init\nnative: false",
        "capture: proxy\nnative: false",
    ];
    for pod in [secured(agent()), secured(variables())] {
        for before in ways {
            let once = injected(&pod, &config(before));
            for after in ways {
                let after = config(after);
                assert_eq!(injected(&once.pod, &after), injected(&pod, &after), "{before}, then {:?}", after.capture());
            }
        }
    }
}

/// The same pod with what injection would leave in it for good.
fn secured(mut pod: Value) -> Value {
    pod["metadata"]["annotations"][DEFAULT_CONTAINER] = json!("agent");
    for list in [INIT_CONTAINERS, CONTAINERS] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container["securityContext"] =
                json!({"runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        }
    }
    pod
}

/// A pod that sets what injection sets.
fn variables() -> Value {
    let env = |variables: &[(&str, &str)]| -> Value {
        variables.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
    };
    let bundle = "/etc/tollgate/trust/ca.pem";
    json!({"metadata": {"annotations": {}}, "spec": {"containers": [
        {"name": "agent", "image": "a", "env": env(&[("JAVA_TOOL_OPTIONS", "-Xmx1g"), ("PIP_CERT", bundle)])},
        {"name": "proxied", "image": "a", "env": env(&[("HTTPS_PROXY", "http://127.0.0.1:3128"), ("NO_PROXY", "corp")])},
        {"name": "own", "image": "a", "env": env(&[("JAVA_TOOL_OPTIONS", "-Djavax.net.ssl.trustStore=/own.jks"),
                                                  ("SSL_CERT_FILE", bundle), ("npm_config_proxy", "http://corp")])},
    ]}})
}

#[test]
fn the_hook_leaves_a_sidecar_some_of_the_grace() {
    let config = config("native: false");
    for (grace, expected) in [(None, "20"), (Some(120), "110"), (Some(10), "0"), (Some(0), "0"), (Some(-1), "0")] {
        let mut pod = agent();
        if let Some(grace) = grace {
            pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        }
        let pod = injected(&pod, &config).pod;
        let command = &pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
        let command: Vec<&str> = command.as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect();
        assert_eq!(command[5..], ["--idle", "--timeout", expected], "{grace:?}");
    }
}

#[test]
fn what_is_not_known_survives() {
    let pod = injected(&agent(), &config("")).pod;
    assert_eq!(pod["spec"]["futureField"]["kept"], true);
    assert_eq!(pod["spec"]["initContainers"][3]["newField"], 1);
    assert_eq!(pod["metadata"]["annotations"]["team"], "x");
}

#[test]
fn only_public_certificates_are_seen_by_others() {
    let more = "sidecar: {policy: p, secrets: [{name: s, secret: s}], config_maps: [{name: c, config_map: c}]}\n\
                identity: {spiffe: {csi: csi.spiffe.io}}";
    let pod = injected(&agent(), &config(more)).pod;
    for list in [INIT_CONTAINERS, CONTAINERS] {
        for container in pod["spec"][list].as_array().unwrap() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            let seen: Vec<&str> = mounts.iter().map(pod::name).collect();
            match pod::name(container) {
                "tollgate" => assert_eq!(seen.len(), 11, "{seen:?}"),
                "tollgate-fence" => assert_eq!(seen, [""; 0]),
                "tollgate-fence-check" => assert_eq!(seen, ["tollgate-fence"]),
                _ => {
                    assert_eq!(seen, ["tollgate-ca"]);
                    assert_eq!(mounts[0]["readOnly"], true);
                }
            }
        }
    }
    let volumes = names(&pod, "volumes");
    let mut unique = volumes.clone();
    unique.dedup();
    assert_eq!(unique, volumes);
}

#[test]
fn all_but_the_fence_passes_restricted() {
    for more in ["", "capture: cni", "capture: proxy", "native: false"] {
        let pod = injected(&agent(), &config(more)).pod;
        for list in [INIT_CONTAINERS, CONTAINERS] {
            for container in pod["spec"][list].as_array().unwrap().iter().filter(|c| safety::is_ours(pod::name(c))) {
                let context = &container["securityContext"];
                let fence = pod::name(container) == "tollgate-fence";
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
                assert_eq!(context["capabilities"]["add"] == json!(["NET_ADMIN"]), fence);
                assert_eq!(context["runAsNonRoot"], !fence);
                assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
                assert_eq!(context["readOnlyRootFilesystem"], true);
                assert_eq!(context["runAsUser"] == 0, fence);
            }
        }
    }
}

#[test]
fn the_pods_author_is_told_what_is_odd() {
    let mut pod = agent();
    pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "c"}}]);
    let injected = injected(&pod, &config("agent: {privileges: lower}\nnative: false"));
    assert_eq!(injected.pod["metadata"]["annotations"][ANNOTATION_KEPT_VARIABLES], "agent: SSL_CERT_FILE");
    insta::assert_snapshot!(injected.warnings.join("\n"), @r"
    container agent: SSL_CERT_FILE is set by the pod and was left; what reads it may not trust the sidecar
    container agent: what envFrom says of certificates or proxies is overridden
    assurance falls to L0: container prepare runs as the user that its image names, which may be one that the fence lets out; set runAsUser to any but 15000
    assurance falls to L0: container prepare may run as root with NET_RAW, which passes by the fence
    assurance falls to L0: container agent runs as the user that its image names, which may be one that the fence lets out; set runAsUser to any but 15000
    assurance falls to L0: container agent may run as root with NET_RAW, which passes by the fence
    init containers run before the sidecar and reach nothing; that needs Kubernetes 1.29
    ");
}

#[test]
fn some_pods_pass_unchanged_where_the_platform_permits_it() {
    let opted_out =
        json!({"metadata": {"annotations": {"tollgate.dev/inject": "false"}}, "spec": {"containers": [{"name": "a"}]}});
    let windows = json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}, "containers": [{"name": "a"}]}});
    let strict = config("skip: {windows: false}");
    let lax = config("skip: {opted_out: true}");
    for pod in [&opted_out, &windows] {
        assert!(inject(pod, "agents", &strict).is_err());
        assert!(matches!(inject(pod, "agents", &lax), Ok(Outcome::Skip(_))));
        assert!(matches!(inject(pod, "kube-system", &strict), Ok(Outcome::Skip(_))));
    }
}

#[test]
fn a_mark_of_injection_is_not_believed() {
    let pod = json!({"metadata": {"annotations": {"tollgate.dev/injected": "9"}}, "spec": {"hostNetwork": false,
        "initContainers": [{"name": "tollgate", "image": "evil", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "a", "volumeMounts": [{"name": "tollgate-ca-key", "mountPath": "/x"}]}]}});
    let pod = injected(&pod, &config("")).pod;
    assert_eq!(pod["spec"]["initContainers"][1]["image"], "registry/tollgate:1");
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().len(), 1);
}

#[test]
fn a_fact_is_not_expanded() {
    let mut pod = agent();
    pod["metadata"]["labels"]["x"] = json!("$(TOLLGATE_LOG)");
    let pod = injected(&pod, &config("")).pod;
    let variables = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let labels = variables.iter().find(|variable| pod::name(variable) == "TOLLGATE_POD_LABELS").unwrap();
    assert_eq!(labels["value"], r#"{"app":"a","x":"$$(TOLLGATE_LOG)"}"#);
}

#[test]
fn the_sidecar_is_told_of_the_pods_task_and_of_who_opens_tasks() {
    let annotations = json!({ANNOTATION_TASK: "{purpose: saving $5}", ANNOTATION_ORCHESTRATOR: "boss"});
    let context = |user: u32| json!({"runAsUser": user});
    let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [
        {"name": "agent", "image": "a", "securityContext": context(1000)},
        {"name": "boss", "image": "a", "securityContext": context(2000)},
    ]}});
    let config = config("permit: {orchestrators: true}");
    let once = injected(&pod, &config);
    assert_eq!(injected(&once.pod, &config), once);
    let told = |pod: &Value, name: &str| {
        let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
        env.iter().find(|variable| pod::name(variable) == name).map(|variable| variable["value"].clone())
    };
    assert_eq!(told(&once.pod, "TOLLGATE_TASK"), Some(json!("{purpose: saving $$5}")));
    assert_eq!(told(&once.pod, "TOLLGATE_ADMIN_USER"), Some(json!("2000")));
    assert_eq!(told(&once.pod, "TOLLGATE_ADMIN"), Some(json!("/run/tollgate/admin/admin.sock")));
    let mounts = |index: usize| {
        let mounts = once.pod["spec"]["containers"][index]["volumeMounts"].as_array().unwrap();
        mounts.iter().map(|mount| (pod::name(mount).to_owned(), mount["readOnly"] == true)).collect::<Vec<_>>()
    };
    assert_eq!(mounts(0), [("tollgate-ca".to_owned(), true)]);
    assert_eq!(mounts(1), [("tollgate-ca".to_owned(), true), ("tollgate-admin".to_owned(), true)]);
    let plain = injected(&agent(), &self::config("permit: {tasks: false}")).pod;
    assert_eq!((told(&plain, "TOLLGATE_TASK"), told(&plain, "TOLLGATE_ADMIN_USER")), (None, None));
}
