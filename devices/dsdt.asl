/*
 * What a guest cannot find out by itself: the ISA devices and the S5 sleep type. Addresses and the
 * sleep type are those of acpi_pm.h. The serial ports are in serial.asl.in, one table for each that
 * the machine has; the power button is the fixed-hardware one and needs no device here.
 */
DefinitionBlock ("", "DSDT", 2, "RNGSFT", "RNGSFTPC", 1)
{
	Name (\_S5, Package () { 0, 0, 0, 0 })

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

		// Ports that belong to the board: nobody may be given them.
		Device (PMIO)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0092, 0x0092, 1, 1)
				IO (Decode16, 0x0600, 0x0600, 1, 0x30)
			})
		}
	}
}
