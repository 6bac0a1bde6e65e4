/*
 * Parts of paging.c with the full error codes: an instruction that reads and writes its operand
 * faults as a write, far returns at CPL 3 fault as the user's accesses, bit 3 comes with bit 0; and
 * reserved bits in PDPTEs. SDM vol. 3, 4.7 and 4.4.1.
 */
#define HARDWARE 1
#include "paging.c"
