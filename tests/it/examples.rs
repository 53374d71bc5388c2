//! Every example is a configuration that loads and a policy that compiles and passes its own tests.

use std::{fs, path::Path, process::Command};

#[test]
fn every_example_loads_and_passes_its_policy_tests() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).expect("there are examples") {
        let example = entry.expect("it can be read").path();
        let tollgate = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).current_dir(&example).output();
            let output = output.expect("the program runs");
            assert!(output.status.success(), "{example:?} {arguments:?}: {output:?}");
        };
        tollgate(&["config", "check", "tollgate.yaml"]);
        tollgate(&["policy", "test", "policy"]);
        seen += 1;
    }
    assert!(seen > 0);
}
