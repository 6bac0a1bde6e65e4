/*
 * What a guest cannot find out by itself: the ISA devices, where PCI's windows are and its interrupt
 * wires lead (pci.h), and the S5 sleep type. Addresses and the
 * sleep type are those of acpi_pm.h. The serial ports are in serial.asl.in, one table for each that
 * the machine has; the power button is the fixed-hardware one and needs no device here.
 */
DefinitionBlock ("", "DSDT", 2, "RNGSFT", "RNGSFTPC", 1)
{
	External (\PHBA, IntObj)	// PCI's window above RAM: where it is and how large
	External (\PHSZ, IntObj)	// (acpi_tables.c)

	Name (\_S5, Package () { 0, 0, 0, 0 })

	// 1: the system uses the I/O APIC.
	Name (\PICM, 0)
	Method (\_PIC, 1, NotSerialized)
	{
		Store (Arg0, \PICM)
	}

	Scope (\_SB)
	{
		Device (PIC)
		{
			Name (_HID, EisaId ("PNP0000"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0020, 0x0020, 1, 2)
				IO (Decode16, 0x00A0, 0x00A0, 1, 2)
				IO (Decode16, 0x04D0, 0x04D0, 1, 2)
				IRQNoFlags () { 2 }
			})
		}

		Device (TIMR)
		{
			Name (_HID, EisaId ("PNP0100"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0040, 0x0040, 1, 4)
				IRQNoFlags () { 0 }
			})
		}

		Device (SPKR)
		{
			Name (_HID, EisaId ("PNP0800"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0061, 0x0061, 1, 1)
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 1, 2)
				IRQNoFlags () { 8 }
			})
		}

		Device (PS2K)
		{
			Name (_HID, EisaId ("PNP0303"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0060, 0x0060, 1, 1)
				IO (Decode16, 0x0064, 0x0064, 1, 1)
				IRQNoFlags () { 1 }
			})
		}

		// Interrupt wire n is pin (n - slot) mod 4 of a slot. It leads to input 16 + n of the I/O
		// APIC, and to one of two inputs of the 8259s, which a system without APIC uses. dsdt.cmake
		// writes out the routes.
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A03"))
			Name (_UID, 0)
			Name (_BBN, 0)

			Name (LOW, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0000, 0x0CF7, 0, 0x0CF8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0D00, 0xFFFF, 0, 0xF300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
					ReadWrite, 0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
			})
			Name (HIGH, ResourceTemplate ()
			{
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable,
					ReadWrite, 0, 0, 0, 0, 1)
			})

			Method (_CRS, 0, Serialized)
			{
				If (LEqual (\PHSZ, 0))
				{
					Return (LOW)
				}
				// The fields of a QWord address space descriptor (6.4.3.5.1).
				CreateQWordField (HIGH, 14, MINA)
				CreateQWordField (HIGH, 22, MAXA)
				CreateQWordField (HIGH, 38, LENA)
				Store (\PHBA, MINA)
				Store (\PHSZ, LENA)
				Add (\PHBA, Subtract (\PHSZ, 1), MAXA)
				Return (ConcatenateResTemplate (LOW, HIGH))
			}

			Name (APRT, Package () {
#include "apic.routes"
			})
			Name (PPRT, Package () {
#include "pic.routes"
			})
			Method (_PRT, 0, NotSerialized)
			{
				If (\PICM)
				{
					Return (APRT)
				}
				Return (PPRT)
			}
		}

		// ECAM belongs to the host bridge; nobody else may be given it.
		Device (ECAM)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 1)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
			})
		}

		// Ports that belong to the board: nobody may be given them.
		Device (PMIO)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0092, 0x0092, 1, 1)
				IO (Decode16, 0x0600, 0x0600, 1, 0x30)
			})
		}
	}
}
