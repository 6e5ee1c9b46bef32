//! What a device is: memory, capability, PCIe, health, fabric.

use std::ffi::{c_int, c_uint, c_ulonglong};
use std::mem::size_of;

use berth_topology::raw::RawFabric;
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEccCounterType_enum_NVML_VOLATILE_ECC as VOLATILE, nvmlEccCounterType_t,
    nvmlEnableState_t, nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfo_v3_t, nvmlMemory_t,
    nvmlMemory_v2_t, nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED as UNCORRECTED,
    nvmlMemoryErrorType_t, nvmlReturn_t,
};

use crate::code::{NOT_SUPPORTED, UNKNOWN, recorded};
use crate::exports;
use crate::out::Out;

/// `NVML_STRUCT_VERSION`: the size below, the version in the top byte.
#[expect(
    clippy::cast_possible_truncation,
    reason = "NVML's structs are below 2^24 bytes"
)]
const fn struct_version<T>(version: c_uint) -> c_uint {
    size_of::<T>() as c_uint | (version << 24)
}

const MEMORY_V2: c_uint = struct_version::<nvmlMemory_v2_t>(2);
const FABRIC_V2: c_uint = struct_version::<nvmlGpuFabricInfo_v2_t>(2);
const FABRIC_V3: c_uint = struct_version::<nvmlGpuFabricInfo_v3_t>(3);

exports! {
    /// Memory, all of it free.
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: Out<nvmlMemory_t>) |state| {
        let total = *recorded(state.machine.device(device)?.memory_total_bytes())?;
        memory.put(nvmlMemory_t { total, free: total, used: 0 })
    }

    /// The same with what the driver keeps, none.
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: Out<nvmlMemory_v2_t>) |state| {
        let version = memory.version(&[MEMORY_V2])?;
        let total = *recorded(state.machine.device(device)?.memory_total_bytes())?;
        memory.put(nvmlMemory_v2_t { version, total, reserved: 0, free: total, used: 0 })
    }

    /// Major, minor.
    fn nvmlDeviceGetCudaComputeCapability(
        device: nvmlDevice_t, major: Out<c_int>, minor: Out<c_int>,
    ) |state| {
        let capability = recorded(&state.machine.gpu(device)?.compute_capability)?;
        major.put(capability.0)?;
        minor.put(capability.1)
    }

    /// PCIe generation now.
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, value: Out<c_uint>) |state| {
        value.put(*recorded(&state.machine.gpu(device)?.pcie_generation)?)
    }

    /// PCIe lanes now.
    fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, value: Out<c_uint>) |state| {
        value.put(*recorded(&state.machine.gpu(device)?.pcie_width)?)
    }

    /// PCIe generation that device and slot allow.
    fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, value: Out<c_uint>) |state| {
        value.put(*recorded(&state.machine.gpu(device)?.pcie_max_generation)?)
    }

    /// PCIe lanes that device and slot allow.
    fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, value: Out<c_uint>) |state| {
        value.put(*recorded(&state.machine.gpu(device)?.pcie_max_width)?)
    }

    /// Only uncorrected errors since boot are recorded.
    fn nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t,
        kind: nvmlMemoryErrorType_t,
        counter: nvmlEccCounterType_t,
        count: Out<c_ulonglong>,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        match (kind, counter) {
            (UNCORRECTED, VOLATILE) => count.put(*recorded(&gpu.ecc_uncorrected_volatile)?),
            _ => Err(NOT_SUPPORTED),
        }
    }

    /// Rows that were remapped, none, and whether more are to be or could not.
    fn nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t,
        corrected: Out<c_uint>,
        uncorrected: Out<c_uint>,
        pending: Out<c_uint>,
        failed: Out<c_uint>,
    ) |state| {
        let gpu = state.machine.gpu(device)?;
        let is_pending = *recorded(&gpu.remapped_rows_pending)?;
        let has_failed = *recorded(&gpu.remapped_rows_failed)?;
        corrected.put(0)?;
        uncorrected.put(0)?;
        pending.put(c_uint::from(is_pending))?;
        failed.put(c_uint::from(has_failed))
    }

    /// Whether pages wait for a reboot to be retired.
    fn nvmlDeviceGetRetiredPagesPendingStatus(
        device: nvmlDevice_t, pending: Out<nvmlEnableState_t>,
    ) |state| {
        pending.put((*recorded(&state.machine.gpu(device)?.retired_pages_pending)?).into())
    }

    /// Fabric registration, in the version that the caller asks for.
    fn nvmlDeviceGetGpuFabricInfoV(device: nvmlDevice_t, info: Out<nvmlGpuFabricInfo_v3_t>) |state| {
        let version = info.version(&[FABRIC_V2, FABRIC_V3])?;
        let fabric = recorded(&state.machine.gpu(device)?.fabric)?;
        if version == FABRIC_V3 {
            info.put(fabric_v3(fabric, version)?)
        } else {
            info.cast().put(fabric_v2(fabric, version)?)
        }
    }
}

fn fabric_v3(fabric: &RawFabric, version: c_uint) -> Result<nvmlGpuFabricInfo_v3_t, nvmlReturn_t> {
    let summary = u8::try_from(fabric.health_summary);
    Ok(nvmlGpuFabricInfo_v3_t {
        version,
        clusterUuid: uuid_bytes(&fabric.cluster_uuid)?,
        status: fabric.status,
        cliqueId: fabric.clique_id,
        state: u8::try_from(fabric.state).map_err(|_| UNKNOWN)?,
        healthMask: fabric.health_mask,
        healthSummary: summary.map_err(|_| UNKNOWN)?,
    })
}

fn fabric_v2(fabric: &RawFabric, version: c_uint) -> Result<nvmlGpuFabricInfo_v2_t, nvmlReturn_t> {
    Ok(nvmlGpuFabricInfo_v2_t {
        version,
        clusterUuid: uuid_bytes(&fabric.cluster_uuid)?,
        status: fabric.status,
        cliqueId: fabric.clique_id,
        state: u8::try_from(fabric.state).map_err(|_| UNKNOWN)?,
        healthMask: fabric.health_mask,
    })
}

/// The 16 bytes of a UUID as it is written.
fn uuid_bytes(text: &str) -> Result<[u8; 16], nvmlReturn_t> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|&c| c != '-')
        .map(|c| {
            c.to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or(UNKNOWN)
        })
        .collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    bytes.try_into().map_err(|_| UNKNOWN)
}
