/*
 * virtio over PCI, the modern transport (Virtual I/O Device Version 1.2, section 4.1): the
 * registers of a virtio device in a BAR, found through capabilities, and its interrupts by MSI-X or
 * pin A.
 */
#ifndef RINGSHIFT_VIRTIO_PCI_H
#define RINGSHIFT_VIRTIO_PCI_H

#include "pci_msix.h"
#include "virtio.h"

struct virtio_pci {
	struct pci_dev pci;
	struct pci_msix msix;
	struct virtio_dev *dev;
	/* The common configuration's selectors, and what has been written for the queue selected.
	 */
	u32 device_feature_select, driver_feature_select;
	u16 queue_select;
	u8 isr;
	u8 cfg_cap; /* where the window into the BARs is */
};

struct virtio_pci_config {
	struct pci_bus *bus;
	int slot;         /* -1: any */
	unsigned vectors; /* of MSI-X; 0: none */
	u32 class_code;
};

/* Give dev, initialised and at reset, a place on the bus. Negative errno as pci_plug. Both belong
 * to the caller and stay until the machine goes. */
MUST_CHECK int virtio_pci_plug(struct virtio_pci *vp, struct virtio_dev *dev,
			       const struct virtio_pci_config *cfg);

#endif
