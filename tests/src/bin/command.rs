// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command `hostiommu` on the running module: what it prints, and how it says what is wrong.

use std::fs;
use std::process::{Command, Output};

use host_iommu_tests::rig::{
    fail, load_module, program, unload_module, wait_for_module_references, Outcome, Rig, Space,
};
use nix::mount::{mount, MsFlags};
use nix::unistd::{Gid, Uid};
use std::os::unix::process::CommandExt;

const PROGRAM: &str = "/bin/hostiommu";
const DEBUGFS: &str = "/sys/kernel/debug";

fn mount_debugfs() -> Outcome {
    if fs::read_dir(DEBUGFS)?.next().is_none() {
        let kind = Some("debugfs");
        mount(kind, DEBUGFS, kind, MsFlags::empty(), None::<&str>)?;
    }
    Ok(())
}

fn run(arguments: &[&str]) -> Outcome<Output> {
    mount_debugfs()?;
    Ok(Command::new(PROGRAM).args(arguments).output()?)
}

/// What it prints if it succeeds.
fn printed(arguments: &[&str]) -> Outcome<String> {
    let output = run(arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() && output.stderr.is_empty() {
        true => Ok(text),
        false => fail(format!("{arguments:?}: {output:?}")),
    }
}

/// What it says if it fails.
fn complaint(output: &Output) -> Outcome<String> {
    match output.status.code() == Some(1) && output.stdout.is_empty() {
        true => Ok(String::from_utf8_lossy(&output.stderr).into_owned()),
        false => fail(format!("{output:?}")),
    }
}

fn commands_show_what_is_there() -> Outcome {
    let rig = Rig::faulting()?;
    let queue = rig.container.fault_queue(0, 0)?;
    let space = Space::new(&rig)?;
    space.bind_with(&rig, &queue, 77, 0)?;
    let stats = rig.container.stats()?;
    let list = printed(&["list"])?;
    assert_eq!(list.lines().count(), 2, "{list}");
    let pages = format!("{} pages mapped", stats.mapped_pages);
    assert!(list.contains(&pages), "{list}");
    let show = printed(&["show"])?;
    let binding = format!(
        "PASID {} (guest's 77): stage 1, with page requests\n",
        space.pasid
    );
    for wanted in [&*binding, "0 of 2048 records wait", "RID stage2"] {
        assert!(show.contains(wanted), "{wanted:?} in {show}");
    }
    let numbers = printed(&["stats"])?;
    for wanted in [
        format!("  {:<16} {}\n", "binds", stats.binds),
        format!("  {:<16} {}\n", "calls", stats.calls),
        "module: 1 of ".to_owned(),
    ] {
        assert!(numbers.contains(&wanted), "{wanted:?} in {numbers}");
    }
    let json = printed(&["show", "--json"])?;
    for wanted in [
        "\"guest_pasid\": 77",
        "\"kind\": \"stage1\"",
        "\"depth\": 2048",
    ] {
        assert!(json.contains(wanted), "{wanted:?} in {json}");
    }
    for line in show.lines() {
        println!("# {line}");
    }
    Ok(())
}

fn without_containers_it_says_so() -> Outcome {
    wait_for_module_references(0)?;
    assert_eq!(printed(&["list"])?, "no containers\n");
    assert_eq!(printed(&["list", "--json"])?, "[]\n");
    let unknown = complaint(&run(&["show", "12345"])?)?;
    assert!(unknown.contains("no container 12345"), "{unknown}");
    Ok(())
}

fn without_the_module_it_says_how_to_load_it() -> Outcome {
    wait_for_module_references(0)?;
    unload_module()?;
    let output = run(&["list"]);
    load_module("")?;
    let said = complaint(&output?)?;
    assert!(said.contains("modprobe vfio_iommu_ioasid"), "{said}");
    Ok(())
}

fn without_debugfs_it_says_how_to_mount_it() -> Outcome {
    let said = complaint(&run(&["list", "--debugfs", "/proc/self/nowhere"])?)?;
    assert!(said.contains("mount -t debugfs"), "{said}");
    Ok(())
}

fn without_root_it_says_so() -> Outcome {
    mount_debugfs()?;
    let mut command = Command::new(PROGRAM);
    command.arg("list");
    command.uid(Uid::from_raw(1000).as_raw());
    command.gid(Gid::from_raw(1000).as_raw());
    let said = complaint(&command.output()?)?;
    assert!(said.contains("only root may read"), "{said}");
    Ok(())
}

program![
    commands_show_what_is_there,
    without_containers_it_says_so,
    without_the_module_it_says_how_to_load_it,
    without_debugfs_it_says_how_to_mount_it,
    without_root_it_says_so,
];
