//! Settings for the linker that depend on the machine that the program is built on.

use std::{env, process::Command};

/// The first C library that reads packed relocations.
const GLIBC: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // The program's tables of addresses are read whole when it starts and stay resident. Packed they are a tenth as long,
    // and an older C library would refuse to load the program.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if release && is_native() && glibc().is_some_and(|version| version >= GLIBC) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether it will run on the machine that it is built on, as far as that can be known.
fn is_native() -> bool {
    let glibc = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux")
        && env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    glibc && env::var("TARGET").ok() == env::var("HOST").ok()
}

fn glibc() -> Option<(u32, u32)> {
    let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(answer.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
