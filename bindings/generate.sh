#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Writes src/uapi.rs from uapi/linux/vfio_ioasid.h. Needs bindgen 0.71; kernel
# headers come from $1 (a directory with linux/vfio.h and linux/iommufd.h).
set -eu
cd "$(dirname "$0")"
include=${1:-/usr/include}
out=${2:-src/uapi.rs}
{
	echo '// SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR Apache-2.0 OR MIT'
	echo '// Written by bindings/generate.sh from uapi/linux/vfio_ioasid.h.'
	bindgen --use-core --rust-target 1.85 --no-doc-comments --with-derive-default \
		--disable-header-comment \
		--allowlist-type 'vfio_ioasid_.*' --allowlist-var 'VFIO_IOASID_.*' \
		--allowlist-type 'iommu_(destroy|iova_range|ioas_(alloc|iova_ranges|map|unmap|copy|map_file)|hwpt_(alloc|invalidate|pgfault|pgfault_flags|page_response|vtd_s1.*|set_dirty_tracking|get_dirty_bitmap)|fault_alloc|hw_info.*)' \
		--allowlist-type 'iommufd_hwpt_alloc_flags|iommufd_ioas_map_flags|iommufd_hw_capabilities|iommufd_hwpt_set_dirty_tracking_flags|iommufd_page_response_code' \
		--allowlist-var 'IOMMUFD_CMD_.*|IOMMUFD_TYPE' \
		--allowlist-type 'vfio_device_(bind|attach|detach)_iommufd.*' \
		--allowlist-type 'vfio_iommu_type1_(info|dma_map|dma_unmap|dirty_bitmap).*|vfio_bitmap|vfio_info_cap_header' \
		--allowlist-var 'VFIO_(DMA|IOMMU_INFO|IOMMU_TYPE1_INFO|IOMMU_DIRTY|TYPE|BASE).*|VFIO_TYPE1.*' \
		generate-input.h -- -isystem "$include" -Iuapi
} >"$out"
