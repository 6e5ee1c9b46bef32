//! The habits of the C interface that a recorded machine alone does not show.

use std::ffi::{CStr, c_char, c_uint};
use std::ptr;

use berth_topology::raw::{Answer, RawMachine, RawMigDevice};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlMemory_v2_t, nvmlReturn_t};

use crate::affinity::nvmlDeviceGetCpuAffinityWithinScope;
use crate::device::nvmlDeviceGetMemoryInfo_v2;
use crate::identity::{
    nvmlDeviceGetHandleByIndex_v2, nvmlDeviceGetHandleByPciBusId_v2, nvmlDeviceGetHandleByUUID,
    nvmlDeviceGetIndex, nvmlDeviceGetMinorNumber, nvmlDeviceGetUUID,
};
use crate::mig::{
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle, nvmlDeviceGetMaxMigDeviceCount,
    nvmlDeviceGetMigDeviceHandleByIndex,
};
use crate::out::Out;
use crate::state::with_machine;
use crate::system::{nvmlErrorString, nvmlShutdown};

const SUCCESS: nvmlReturn_t = 0;
const MEMORY_V2: c_uint = 40 | 2 << 24;

/// An A100 machine whose first GPU is cut into two MIG devices.
fn machine() -> RawMachine {
    let text = include_str!("../../../machines/dgx-a100.raw.json");
    let mut raw: RawMachine = serde_json::from_str(text).unwrap();
    let Answer::Value(nvml) = &mut raw.nvml else {
        panic!("it has NVML")
    };
    let Answer::Value(gpu) = &mut nvml.gpus[0] else {
        panic!("it has a GPU")
    };
    gpu.mig_mode = Answer::Value(1);
    let mig = |number: u32| RawMigDevice {
        uuid: Answer::Value(format!("MIG-0000000{number}-0000-5000-8000-000000000000")),
        slices: Answer::Value(3),
        ..RawMigDevice::default()
    };
    gpu.mig_devices = vec![mig(1), mig(2)];
    nvml.gpus[1] = Answer::failed("NVML_ERROR_GPU_IS_LOST");
    raw
}

/// A call that writes one value: its code and what it wrote over `value`.
fn ask<T: Copy>(mut value: T, call: impl FnOnce(Out<T>) -> nvmlReturn_t) -> (nvmlReturn_t, T) {
    let code = call(Out::to(&mut value));
    (code, value)
}

fn gpu(index: c_uint) -> nvmlDevice_t {
    // SAFETY: the pointer is to a local that outlives the call.
    let (code, device) = ask(ptr::null_mut(), |out| unsafe {
        nvmlDeviceGetHandleByIndex_v2(index, out)
    });
    assert_eq!(code, SUCCESS);
    device
}

#[test]
fn nothing_answers_before_init_but_error_texts() {
    with_machine(machine(), || {
        assert_eq!(nvmlShutdown(), SUCCESS);
        // SAFETY: the pointer is to a local that outlives the call.
        let count = ask(0, |out| unsafe {
            nvmlDeviceGetMinorNumber(ptr::null_mut(), out)
        });
        assert_eq!(count, (1, 0));
        assert_eq!(nvmlShutdown(), 1);
        // SAFETY: `nvmlErrorString` gives static texts.
        let text = unsafe { CStr::from_ptr(nvmlErrorString(3)) };
        assert_eq!(text, c"Not Supported");
    });
}

#[test]
fn sizes_versions_and_null_pointers_are_checked() {
    with_machine(machine(), || {
        let device = gpu(0);
        let mut buffer: [c_char; 80] = [0; 80];
        // SAFETY: lengths are at most those of the buffers behind the pointers.
        unsafe {
            let out = Out::to(&mut buffer[0]);
            assert_eq!(
                nvmlDeviceGetUUID(device, out, 40),
                7,
                "a UUID and its zero are 41 bytes"
            );
            assert_eq!(nvmlDeviceGetIndex(device, Out::null()), 2);
            let blank = nvmlMemory_v2_t {
                version: 0,
                total: 0,
                reserved: 0,
                free: 0,
                used: 0,
            };
            let (code, _) = ask(blank, |out| nvmlDeviceGetMemoryInfo_v2(device, out));
            assert_eq!(code, 25);
            let versioned = nvmlMemory_v2_t {
                version: MEMORY_V2,
                ..blank
            };
            let (code, memory) = ask(versioned, |out| nvmlDeviceGetMemoryInfo_v2(device, out));
            assert_eq!((code, memory.total), (SUCCESS, 40 << 30));
            let (code, _) = ask(0, |out| {
                nvmlDeviceGetCpuAffinityWithinScope(device, 0, out, 0)
            });
            assert_eq!(code, 2);
        }
    });
}

#[test]
fn a_cpu_set_is_cut_to_what_the_caller_has_room_for() {
    with_machine(machine(), || {
        let mut words = [u64::MAX; 2];
        // SAFETY: the length is that of the array.
        let code =
            unsafe { nvmlDeviceGetCpuAffinityWithinScope(gpu(0), 2, Out::to(&mut words[0]), 0) };
        assert_eq!(code, SUCCESS);
        assert_eq!(
            words,
            [0xffff_0000_0000_0000, 0],
            "48-63 fit, 176-191 do not"
        );
    });
}

#[test]
fn handles_are_found_by_uuid_and_address_and_a_lost_gpu_has_none() {
    with_machine(machine(), || {
        // SAFETY: pointers are to locals and static texts that outlive the calls.
        unsafe {
            let none = ptr::null_mut();
            let (code, device) = ask(none, |out| {
                nvmlDeviceGetHandleByPciBusId_v2(c"0000:47:00.0".as_ptr(), out)
            });
            assert_eq!((code, device), (SUCCESS, gpu(2)));
            assert_eq!(ask(0, |out| nvmlDeviceGetIndex(device, out)), (SUCCESS, 2));
            let (code, _) = ask(none, |out| {
                nvmlDeviceGetHandleByUUID(c"GPU-nobody".as_ptr(), out)
            });
            assert_eq!(code, 6);
            assert_eq!(ask(none, |out| nvmlDeviceGetHandleByIndex_v2(1, out)).0, 15);
            assert_eq!(ask(none, |out| nvmlDeviceGetHandleByIndex_v2(8, out)).0, 2);
        }
    });
}

#[test]
fn mig_devices_have_handles_of_their_own() {
    with_machine(machine(), || {
        // SAFETY: pointers are to locals and static texts that outlive the calls.
        unsafe {
            let none = ptr::null_mut();
            assert_eq!(
                ask(0, |out| nvmlDeviceGetMaxMigDeviceCount(gpu(0), out)),
                (SUCCESS, 7)
            );
            assert_eq!(
                ask(0, |out| nvmlDeviceGetMaxMigDeviceCount(gpu(2), out)),
                (SUCCESS, 0)
            );
            let by_index = |index| {
                ask(none, |out| {
                    nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), index, out)
                })
            };
            let (code, mig) = by_index(1);
            assert_eq!(code, SUCCESS);
            assert_eq!(by_index(2).0, 6);
            let uuid = c"MIG-00000002-0000-5000-8000-000000000000";
            let (code, found) = ask(none, |out| nvmlDeviceGetHandleByUUID(uuid.as_ptr(), out));
            assert_eq!((code, found), (SUCCESS, mig));
            let parent = ask(none, |out| {
                nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig, out)
            });
            assert_eq!(parent, (SUCCESS, gpu(0)));
            assert_eq!(ask(0, |out| nvmlDeviceGetMinorNumber(mig, out)).0, 2);
        }
    });
}
