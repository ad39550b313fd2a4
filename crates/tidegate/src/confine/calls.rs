//! Which system calls the program may not make: those that reach other processes, the network, the kernel's
//! own affairs, or files by other ways than their paths. They fail as if the program had no right to them.
//!
//! This is a list of what is forbidden, not of what is allowed: the libraries of the system change which
//! ordinary calls they use, and files are guarded elsewhere.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::Failure;

/// Forbidden whatever the arguments.
const FORBIDDEN: &[i64] = &[
    // The network; a pair of connected sockets (`socketpair`) is a pipe and stays.
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // The process group, by which the server ends the program.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Programs that are not files, files that are not paths.
    libc::SYS_memfd_create,
    libc::SYS_execveat,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_inotify_init1,
    libc::SYS_mknodat,
    // Landlock of old kernels does not know it.
    libc::SYS_truncate,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    // The kernel's own affairs.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_personality,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Further ones that only this processor has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[i64] =
    &[libc::SYS_mknod, libc::SYS_inotify_init, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[i64] = &[];

/// The second set of numbers of x86-64, for pointers of 32 bits; nothing that runs here uses it.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// New namespaces, of any kind.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// From now on, none of these calls can be made.
pub(super) fn restrict() -> Result<(), Failure> {
    let failed = |error: seccompiler::Error| Failure::new("cannot restrict system calls", error);
    for filter in [forbidden().map_err(failed)?, unknown().map_err(failed)?] {
        seccompiler::apply_filter(&filter).map_err(failed)?;
    }
    Ok(())
}

fn forbidden() -> Result<BpfProgram, seccompiler::Error> {
    let all = FORBIDDEN.iter().chain(FORBIDDEN_HERE);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    {
        let other: Vec<i64> = rules.keys().map(|call| call | X32).chain(X32 + 512..X32 + 548).collect();
        rules.extend(other.into_iter().map(|call| (call, Vec::new())));
    }
    let mut clones = Vec::new();
    for namespace in NAMESPACES {
        let flag = u64::from(namespace.unsigned_abs());
        clones.push(only(0, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    rules.insert(libc::SYS_clone, clones);
    // The limits of others.
    rules.insert(libc::SYS_prlimit64, vec![only(0, SeccompCmpOp::Ne, 0)?]);
    // Input that is put into a terminal.
    rules.insert(libc::SYS_ioctl, vec![only(1, SeccompCmpOp::Eq, libc::TIOCSTI)?]);
    program(rules, libc::EPERM)
}

/// What cannot be looked into is answered as by an old kernel, and done in the old way then.
fn unknown() -> Result<BpfProgram, seccompiler::Error> {
    program(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

fn only(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let answer = SeccompAction::Errno(error.unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?)
}
