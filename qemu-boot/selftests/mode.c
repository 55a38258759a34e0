// SPDX-License-Identifier: Apache-2.0 OR MIT
// vfio_pci_driver_test looks whether it has a driver for the device in the library's default mode,
// iommufd. A kernel without iommufd needs another one: that of the environment, if there is one.

#include <stdlib.h>

extern const char *default_iommu_mode;

__attribute__((constructor)) static void mode_of_the_environment(void)
{
    const char *mode = getenv("IOMMU_MODE");

    if (mode)
        default_iommu_mode = mode;
}
