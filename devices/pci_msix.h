/*
 * MSI-X (PCI Local Bus Specification 3.0, 6.8.2): a table of messages in a BAR, one for each
 * interrupt of the function, that can be masked one by one, and an array of bits that says which
 * are pending.
 */
#ifndef RINGSHIFT_PCI_MSIX_H
#define RINGSHIFT_PCI_MSIX_H

#include "pci.h"

#define MSIX_MAX     128
#define MSIX_CAP_LEN 12

struct pci_msix {
	u8 cap; /* offset of the capability */
	unsigned count;
	u8 table[MSIX_MAX * 16];
	u8 pending[MSIX_MAX / 8];
};

/* Give a function count vectors (1 to MSIX_MAX) in a BAR of their own. m belongs to the caller. */
void pci_msix_init(struct pci_dev *d, struct pci_msix *m, unsigned bar, unsigned count);
void pci_msix_reset(struct pci_dev *d);

bool pci_msix_enabled(const struct pci_dev *d);
/* Send the message of a vector, or note that it is to be sent. */
void pci_msix_notify(struct pci_dev *d, unsigned vector);
/* Control bits have changed: send what is pending and no longer held back. */
void pci_msix_update(struct pci_dev *d);

#endif
