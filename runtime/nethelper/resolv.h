/*
 * libslirp reads /etc/resolv.conf whenever it wants to know the host's name servers. In the sandbox
 * nothing can be opened, so fopen and stat of this executable, which libslirp finds before the C
 * library's, know that one file as it was at the start, and no other.
 */
#ifndef RINGSHIFT_NETHELPER_RESOLV_H
#define RINGSHIFT_NETHELPER_RESOLV_H

/* Read the file now. Without it there are no name servers. */
void resolv_remember(void);

#endif
