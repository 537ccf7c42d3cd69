// SPDX-License-Identifier: GPL-2.0
/*
 * Prints values of a JSON object on standard input, one a line.
 *   json PATH     names with dots between them, for example findings.kind
 * A list stands for each of its elements, and * for each name of an object.
 * Strings are printed without quotes. The object begins at the first line that
 * begins with a brace, because messages may come before it, and behind it. Fails
 * if it is not JSON, or has no value there.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char text[1 << 20];
static const char *at = text;
static int found;

static void bad(const char *what)
{
	fprintf(stderr, "json: %s at byte %zu\n", what, (size_t)(at - text));
	exit(2);
}

static int next(void)
{
	while (isspace((unsigned char)*at))
		at++;
	return *at;
}

static void expect(char c)
{
	if (next() != c)
		bad("not JSON");
	at++;
}

/* Reads a string into s, cut at size. */
static void string(char *s, size_t size)
{
	size_t n = 0;
	char c;

	expect('"');
	while ((c = *at++) != '"') {
		if (!c)
			bad("a string without an end");
		if (c == '\\') {
			c = *at++;
			if (c == 'n')
				c = '\n';
			else if (c == 't')
				c = '\t';
			else if (!strchr("\"\\/", c))
				bad("an escape that this program does not know");
		}
		if (n + 1 < size)
			s[n++] = c;
	}
	s[n] = 0;
}

/* Returns what is left of a path behind a name; NULL if it names another. */
static const char *behind(const char *path, const char *name)
{
	size_t n = path ? strcspn(path, ".") : 0;

	if (!n || (strncmp(path, "*", n) && (strlen(name) != n || strncmp(path, name, n))))
		return NULL;
	return path[n] ? path + n + 1 : path + n;
}

/* Reads a value, and prints it if the path is at its end. A path of NULL leads elsewhere. */
static void value(const char *path)
{
	static char s[1 << 16];
	char c = next(), close = c == '{' ? '}' : ']', name[256];
	size_t n;

	if (c == '{' || c == '[') {
		at++;
		if (next() == close) {
			at++;
			return;
		}
		for (;;) {
			const char *rest = path;

			if (c == '{') {
				string(name, sizeof(name));
				expect(':');
				rest = behind(path, name);
			}
			value(rest);
			if (next() != ',')
				break;
			at++;
			next();
		}
		expect(close);
		return;
	}
	if (c == '"') {
		string(s, sizeof(s));
	} else {
		n = strspn(at, "+-.0123456789Eabcdefghijklmnopqrstuvwxyz");
		if (!n || n >= sizeof(s))
			bad("not JSON");
		memcpy(s, at, n);
		s[n] = 0;
		at += n;
	}
	if (path && !*path) {
		puts(s);
		found = 1;
	}
}

int main(int argc, char **argv)
{
	size_t n;

	if (argc != 2) {
		fputs("json PATH\n", stderr);
		return 2;
	}
	n = fread(text, 1, sizeof(text) - 1, stdin);
	if (n == sizeof(text) - 1)
		bad("too long a document");
	while (*at && *at != '{') {
		at = strchrnul(at, '\n');
		at += *at == '\n';
	}
	value(argv[1]);
	return !found;
}
