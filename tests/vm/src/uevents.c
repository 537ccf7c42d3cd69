// SPDX-License-Identifier: GPL-2.0
/*
 * Listens to the kernel's uevents for disks whose path ends in NAME. Prints one
 * line for each: the action, and those of its variables that are named on the
 * command line. A name with a slash before it is an attribute of the device in
 * sysfs, read at the time of the event. "ready" comes first. Runs until it is
 * killed.
 *   uevents NAME [VARIABLE|/ATTRIBUTE]...
 */
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Prints the present value of the attribute, up to the first newline. */
static void show_attribute(const char *message, const char *name)
{
	char path[4096], text[256];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/sys%s%s", message + strcspn(message, "/"), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[len < 0 ? 0 : len] = 0;
	text[strcspn(text, "\n")] = 0;
	printf(" %s=%s", name + 1, len < 0 ? "?" : text);
}

static void show(const char *message, size_t len, char **variables)
{
	const char *end = message + len, *p;

	printf("%.*s", (int)strcspn(message, "@"), message);
	for (; *variables; variables++) {
		size_t n = strlen(*variables);

		if (**variables == '/') {
			show_attribute(message, *variables);
			continue;
		}
		for (p = message; p < end; p += strlen(p) + 1)
			if (!strncmp(p, *variables, n) && p[n] == '=')
				printf(" %s", p);
	}
	printf("\n");
}

int main(int argc, char **argv)
{
	struct sockaddr_nl all = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	static char message[16384];
	ssize_t len;
	int s;

	if (argc < 2)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	s = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_KOBJECT_UEVENT);
	if (s < 0 || bind(s, (struct sockaddr *)&all, sizeof(all))) {
		perror("uevents");
		return 1;
	}
	printf("ready\n");
	while ((len = recv(s, message, sizeof(message) - 1, 0)) > 0) {
		const char *name;

		message[len] = 0;
		name = strrchr(message, '/');
		if (name && !strcmp(name + 1, argv[1]))
			show(message, len, argv + 2);
	}
	perror("uevents");
	return 1;
}
