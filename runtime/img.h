/*
 * `ringshift img`: make, look at, check and resize disk images. Subcommands and options are
 * qemu-img's.
 */
#ifndef RINGSHIFT_IMG_H
#define RINGSHIFT_IMG_H

/* argv[0] is "img"; the process's exit status. */
int img_main(int argc, char **argv);

#endif
