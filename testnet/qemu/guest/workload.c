/*
 * What runs in the QEMU guest: a load on its disks, its memory and its network that checks itself.
 *
 *   files    on the ext4 of /dev/vda, each version written anew and renamed over the last; a header names the
 *            file, its version and the checksum of what follows
 *   blocks   of /dev/vdb, past the page cache; each carries its index and a number that only grows
 *   pages    of memory, rewritten at random; each carries its index and a counter
 *   beats    an Ethernet frame with a counter, every few milliseconds
 *
 * Whatever is read is compared with what was last written. It speaks over the serial console: one JSON object
 * per line out, one command per line in: verify, sums, halt, reboot, status, or fio with its arguments where the
 * image has it.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define FILES "/data"
#define FILES_MAX 4096
#define FILE_BYTES_MAX (256 * 1024)
#define COMMAND_MAX 512
#define FIO_OUTPUT_MAX (256 * 1024)
#define BLOCKS_AT_ONCE (FILE_BYTES_MAX / BLOCK)
#define MAGIC 0x534a524eU
#define ERRORS_KEPT 5
/* Of the beats' frames: reserved for experiments. */
#define BEAT_ETHERTYPE 0x88b5

static struct {
	long memory_mib, pages_per_s, blocks_per_s, files_per_s, files, beat_ms;
} options = {24, 2000, 100, 20, 64, 2};

static struct {
	volatile unsigned long errors, pages_written, blocks_written, blocks_read, files_written, files_read, beats;
} counts;

static int console;
static pthread_mutex_t console_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t pages_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static char first_errors[ERRORS_KEPT][120];

static void write_console(const char *text, size_t length)
{
	pthread_mutex_lock(&console_lock);
	for (size_t at = 0; at < length;) {
		ssize_t n = write(console, text + at, length - at);
		if (n > 0) at += n;
	}
	pthread_mutex_unlock(&console_lock);
}

static void say(const char *format, ...)
{
	char line[1024];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof line - 1, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof line - 2) length = sizeof line - 2;
	line[length++] = '\n';
	write_console(line, length);
}

static void fault(const char *format, ...)
{
	char text[120];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	unsigned long n = __sync_fetch_and_add(&counts.errors, 1);
	if (n >= ERRORS_KEPT) return;
	memcpy(first_errors[n], text, sizeof text);
	say("{\"type\":\"error\",\"text\":\"%s\"}", text);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

/* Waits so that `done` things take their time at `per_s`. What was missed is not made up for. */
static void pace(double *begun, unsigned long *done, long per_s)
{
	double ahead = *begun + (double)++*done / per_s - now();
	if (ahead > 0) usleep(ahead * 1e6);
	else if (ahead < -0.5) *begun = now(), *done = 0;
}

static uint32_t crc_table[256];

static void make_crc_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320U ^ (c >> 1) : c >> 1;
		crc_table[i] = c;
	}
}

/* As zlib's: begins with 0, and may go on with its own result. */
static uint32_t crc32(uint32_t crc, const void *bytes, size_t length)
{
	const uint8_t *p = bytes;
	crc = ~crc;
	while (length--) crc = crc_table[(crc ^ *p++) & 255] ^ (crc >> 8);
	return ~crc;
}

/* Pages of memory. */

static uint64_t *memory;
static uint32_t *page_counters;

static void stamp_page(long page, uint32_t counter)
{
	uint64_t *words = memory + page * (BLOCK / 8), word = ((uint64_t)page << 32) | counter;
	for (int i = 0; i < BLOCK / 8; i++) words[i] = word + i;
}

static void check_page(long page)
{
	uint64_t *words = memory + page * (BLOCK / 8), word = ((uint64_t)page << 32) | page_counters[page];
	for (int i = 0; i < BLOCK / 8; i++) {
		if (words[i] == word + i) continue;
		fault("page %ld word %d: %llx, not %llx", page, i, (long long)words[i], (long long)(word + i));
		return;
	}
}

static void *write_pages(void *unused)
{
	long pages = options.memory_mib << 20 >> 12;
	uint64_t seed = 88172645463325252ULL;
	unsigned long done = 0;
	double begun = now();
	for (;;) {
		pthread_mutex_lock(&pages_lock);
		for (int i = 0; i < 20; i++) {
			long page = next_random(&seed) % pages;
			check_page(page);
			stamp_page(page, ++page_counters[page]);
		}
		pthread_mutex_unlock(&pages_lock);
		counts.pages_written += 20;
		pace(&begun, &done, options.pages_per_s / 20 + 1);
	}
	return unused;
}

/* Blocks of the second vbd. */

struct block_stamp { uint32_t magic, index, number, check; };

static int block_device = -1;
static long block_count;
static uint32_t *block_numbers;
static uint32_t last_number;

static void stamp_block(char *block, uint32_t index, uint32_t number)
{
	struct block_stamp stamp = {MAGIC, index, number, MAGIC ^ index ^ number};
	for (int at = 0; at < BLOCK; at += sizeof stamp) memcpy(block + at, &stamp, sizeof stamp);
}

/* The number that the block carries; 0 for one of zeroes, -1 where it is neither. */
static long number_of(const char *block, uint32_t index)
{
	static const char zeroes[BLOCK];
	if (memcmp(block, zeroes, BLOCK) == 0) return 0;
	const struct block_stamp *first = (const void *)block;
	char expected[BLOCK];
	stamp_block(expected, index, first->number);
	return memcmp(block, expected, BLOCK) == 0 ? (long)first->number : -1;
}

static int read_blocks(char *buffer, long index, long count)
{
	if (pread(block_device, buffer, count * BLOCK, (off_t)index * BLOCK) == count * BLOCK) return 1;
	fault("%ld blocks at %ld cannot be read: errno %d", count, index, errno);
	return 0;
}

static void check_blocks(char *buffer, long index, long count)
{
	if (!read_blocks(buffer, index, count)) return;
	for (long i = index; i < index + count; i++) {
		long found = number_of(buffer + (i - index) * BLOCK, i);
		if (found != (long)block_numbers[i]) fault("block %ld has number %ld, not %u", i, found, block_numbers[i]);
	}
}

static long blocks_at_once(long index)
{
	return block_count - index < BLOCKS_AT_ONCE ? block_count - index : BLOCKS_AT_ONCE;
}

static void write_block(char *buffer, long index)
{
	stamp_block(buffer, index, ++last_number);
	if (pwrite(block_device, buffer, BLOCK, (off_t)index * BLOCK) != BLOCK)
		fault("block %ld cannot be written: errno %d", index, errno);
	block_numbers[index] = last_number;
}

/* After a boot the device itself says what was written. */
static void learn_blocks(char *buffer)
{
	for (long from = 0; from < block_count; from += BLOCKS_AT_ONCE) {
		long count = blocks_at_once(from);
		if (!read_blocks(buffer, from, count)) continue;
		for (long index = from; index < from + count; index++) {
			long number = number_of(buffer + (index - from) * BLOCK, index);
			if (number < 0) fault("block %ld carries another stamp", index);
			block_numbers[index] = number < 0 ? 0 : number;
			if (block_numbers[index] > last_number) last_number = block_numbers[index];
		}
	}
}

static void *write_blocks(void *buffer)
{
	uint64_t seed = 362436069ULL;
	unsigned long done = 0;
	double begun = now();
	for (;;) {
		uint64_t r = next_random(&seed);
		/* One half of the writes goes to a tenth of the device. */
		long index = (r >> 8) % (r & 2 ? block_count : block_count / 10 + 1);
		pthread_mutex_lock(&blocks_lock);
		if (r & 1) write_block(buffer, index), counts.blocks_written++;
		else check_blocks(buffer, index, 1), counts.blocks_read++;
		if (counts.blocks_written % 64 == 63) fdatasync(block_device);
		pthread_mutex_unlock(&blocks_lock);
		pace(&begun, &done, options.blocks_per_s);
	}
	return 0;
}

/* Files. */

struct file_head { uint32_t magic, file, version, length, crc; };

static uint32_t file_versions[FILES_MAX];

static void name_file(char *path, long file) { sprintf(path, FILES "/f%04ld", file); }

/* The version that the file carries; 0 where there is none, -1 where it is damaged. */
static long read_file(char *buffer, long file, uint32_t *sum, uint32_t *size)
{
	char path[64];
	name_file(path, file);
	int fd = open(path, O_RDONLY);
	if (fd < 0) return errno == ENOENT ? 0 : -1;
	long length = 0, n;
	while ((n = read(fd, buffer + length, FILE_BYTES_MAX + BLOCK - length)) > 0) length += n;
	close(fd);
	struct file_head *head = (void *)buffer;
	if (n < 0 || length < (long)sizeof *head || head->magic != MAGIC || head->file != (uint32_t)file) return -1;
	if (head->length != length - sizeof *head || head->crc != crc32(0, head + 1, head->length)) return -1;
	if (sum) *sum = crc32(0, buffer, length), *size = length;
	return head->version;
}

static void check_file(char *buffer, long file)
{
	long version = read_file(buffer, file, 0, 0);
	if (version != (long)file_versions[file])
		fault("file %ld has version %ld, not %u", file, version, file_versions[file]);
}

static void write_file(char *buffer, long file, uint64_t *seed)
{
	struct file_head *head = (void *)buffer;
	uint64_t r = next_random(seed);
	uint32_t length = 512 + r % (r & 0x10000 ? FILE_BYTES_MAX - BLOCK : 8 * BLOCK);
	uint64_t *words = (void *)(head + 1);
	for (uint32_t i = 0; i <= length / 8; i++) words[i] = r + i * 0x9e3779b97f4a7c15ULL;
	*head = (struct file_head){MAGIC, file, file_versions[file] + 1, length, crc32(0, head + 1, length)};
	char path[64], other[64];
	name_file(path, file);
	sprintf(other, FILES "/new");
	int fd = open(other, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	long size = sizeof *head + length;
	if (fd < 0 || write(fd, buffer, size) != size) fault("file %ld cannot be written: errno %d", file, errno);
	/* A file that was renamed is whole, whatever happens to the host then. */
	if (fsync(fd) != 0) fault("file %ld cannot be flushed: errno %d", file, errno);
	close(fd);
	if (rename(other, path) != 0) fault("file %ld cannot be renamed: errno %d", file, errno);
	file_versions[file]++;
}

static void *write_files(void *buffer)
{
	uint64_t seed = 521288629ULL;
	unsigned long done = 0;
	double begun = now();
	for (;;) {
		uint64_t r = next_random(&seed);
		long file = (r >> 8) % options.files;
		pthread_mutex_lock(&files_lock);
		if (r & 1) write_file(buffer, file, &seed), counts.files_written++;
		else check_file(buffer, file), counts.files_read++;
		pthread_mutex_unlock(&files_lock);
		pace(&begun, &done, options.files_per_s);
	}
	return 0;
}

/* Beats. */

static void *beat(void *unused)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(BEAT_ETHERTYPE));
	struct ifreq interface = {0};
	strcpy(interface.ifr_name, "eth0");
	if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &interface) < 0) return unused;
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = interface.ifr_ifindex, .sll_halen = 6};
	memset(address.sll_addr, 0xff, 6);
	uint8_t frame[60] = {0};
	memset(frame, 0xff, 6);
	ioctl(fd, SIOCGIFHWADDR, &interface);
	memcpy(frame + 6, interface.ifr_hwaddr.sa_data, 6);
	frame[12] = BEAT_ETHERTYPE >> 8;
	frame[13] = BEAT_ETHERTYPE & 255;
	for (uint32_t n = 1;; n++) {
		uint32_t number = htonl(n);
		memcpy(frame + 14, &number, 4);
		if (sendto(fd, frame, sizeof frame, 0, (void *)&address, sizeof address) > 0) counts.beats++;
		usleep(options.beat_ms * 1000);
	}
	return unused;
}

/* Commands. */

static char *command_buffer;
/* Nothing is written any more. */
static int at_rest;

static void lock_all(void)
{
	pthread_mutex_lock(&pages_lock);
	pthread_mutex_lock(&blocks_lock);
	pthread_mutex_lock(&files_lock);
}

static void unlock_all(void)
{
	pthread_mutex_unlock(&files_lock);
	pthread_mutex_unlock(&blocks_lock);
	pthread_mutex_unlock(&pages_lock);
}

static void drop_caches(void)
{
	sync();
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd < 0 || write(fd, "3", 1) != 1) fault("caches cannot be dropped");
	close(fd);
}

static void verify(void)
{
	long pages = options.memory_mib << 20 >> 12;
	if (!at_rest) lock_all();
	drop_caches();
	for (long page = 0; page < pages; page++) check_page(page);
	for (long index = 0; index < block_count; index += BLOCKS_AT_ONCE)
		check_blocks(command_buffer, index, blocks_at_once(index));
	for (long file = 0; file < options.files; file++) check_file(command_buffer, file);
	say("{\"type\":\"verified\",\"pages\":%ld,\"blocks\":%ld,\"files\":%ld,\"errors\":%lu}", pages, block_count,
	    options.files, counts.errors);
	if (!at_rest) unlock_all();
}

/* Nothing is written after it: the sums are those of the disk as the guest leaves it. */
static void sums(void)
{
	if (!at_rest) lock_all(), at_rest = 1;
	drop_caches();
	long files = 0;
	for (long file = 0; file < options.files; file++) {
		uint32_t sum, size;
		long version = read_file(command_buffer, file, &sum, &size);
		if (version < 0) fault("file %ld is damaged", file);
		if (version <= 0) continue;
		files++;
		say("{\"type\":\"file\",\"name\":\"f%04ld\",\"size\":%u,\"crc32\":%u}", file, size, sum);
	}
	say("{\"type\":\"sums\",\"files\":%ld,\"errors\":%lu}", files, counts.errors);
}

static void end(int how)
{
	if (!at_rest) lock_all(), at_rest = 1;
	fdatasync(block_device);
	sync();
	if (umount(FILES) != 0) fault("the file system cannot be unmounted: errno %d", errno);
	say("{\"type\":\"unmounted\",\"errors\":%lu}", counts.errors);
	tcdrain(console);
	reboot(how);
}

static void status(void)
{
	say("{\"type\":\"status\",\"uptimeMs\":%ld,\"errors\":%lu,\"pagesWritten\":%lu,\"blocksWritten\":%lu,"
	    "\"blocksRead\":%lu,\"filesWritten\":%lu,\"filesRead\":%lu,\"beats\":%lu}",
	    (long)(now() * 1000), counts.errors, counts.pages_written, counts.blocks_written, counts.blocks_read,
	    counts.files_written, counts.files_read, counts.beats);
}

static void *report(void *unused)
{
	for (;; usleep(500000)) status();
	return unused;
}

/* Its result is a JSON object of many lines; what it prints before that is not ours to tell. */
static void run_fio(const char *arguments)
{
	static char output[FIO_OUTPUT_MAX], line[FIO_OUTPUT_MAX + 100];
	char command[COMMAND_MAX + 64];
	snprintf(command, sizeof command, "exec /bin/fio --output-format=json --eta=never %s", arguments);
	FILE *fio = popen(command, "r");
	size_t length = fio ? fread(output, 1, sizeof output - 1, fio) : 0;
	output[length] = 0;
	int status = fio ? pclose(fio) : -1;
	for (char *c = output; *c; c++) if ((unsigned char)*c < ' ') *c = ' ';
	char *result = strchr(output, '{');
	if (!result) say("{\"type\":\"fio\",\"status\":%d}", status);
	else write_console(line, sprintf(line, "{\"type\":\"fio\",\"status\":%d,\"result\":%s}\n", status, result));
}

static void obey(const char *command)
{
	if (strcmp(command, "verify") == 0) verify();
	else if (strcmp(command, "sums") == 0) sums();
	else if (strcmp(command, "status") == 0) status();
	else if (strcmp(command, "halt") == 0) end(RB_POWER_OFF);
	else if (strcmp(command, "reboot") == 0) end(RB_AUTOBOOT);
	else if (strncmp(command, "fio ", 4) == 0) run_fio(command + 4);
	else if (command[0] != 0) say("{\"type\":\"unknown\"}");
}

static void read_options(void)
{
	char text[4096] = {0};
	int fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof text - 1) < 0) return;
	close(fd);
	struct { const char *name; long *value; } known[] = {
		{"work.memory_mib=%ld", &options.memory_mib}, {"work.pages_per_s=%ld", &options.pages_per_s},
		{"work.blocks_per_s=%ld", &options.blocks_per_s}, {"work.files_per_s=%ld", &options.files_per_s},
		{"work.files=%ld", &options.files}, {"work.beat_ms=%ld", &options.beat_ms},
	};
	for (char *word = strtok(text, " \n"); word; word = strtok(0, " \n"))
		for (unsigned i = 0; i < sizeof known / sizeof known[0]; i++) sscanf(word, known[i].name, known[i].value);
	if (options.files > FILES_MAX) options.files = FILES_MAX;
}

static void *new_buffer(void)
{
	void *buffer = 0;
	if (posix_memalign(&buffer, BLOCK, FILE_BYTES_MAX + 2 * BLOCK) != 0) abort();
	return buffer;
}

static void begin(void)
{
	long pages = options.memory_mib << 20 >> 12;
	memory = mmap(0, pages * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page_counters = calloc(pages, sizeof *page_counters);
	for (long page = 0; page < pages; page++) stamp_page(page, 0);
	command_buffer = new_buffer();
	block_device = open("/dev/vdb", O_RDWR | O_DIRECT);
	uint64_t size = 0;
	if (block_device >= 0) ioctl(block_device, BLKGETSIZE64, &size);
	block_count = size / BLOCK;
	block_numbers = calloc(block_count + 1, sizeof *block_numbers);
	if (block_count > 0) learn_blocks(command_buffer);
	for (long file = 0; file < options.files; file++) {
		long version = read_file(command_buffer, file, 0, 0);
		if (version < 0) fault("file %ld is damaged", file);
		file_versions[file] = version < 0 ? 0 : version;
	}
}

int main(void)
{
	pthread_t thread;
	char line[COMMAND_MAX];
	size_t length = 0;
	console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
	struct termios raw;
	tcgetattr(console, &raw);
	cfmakeraw(&raw);
	tcsetattr(console, TCSANOW, &raw);
	make_crc_table();
	read_options();
	begin();
	say("{\"type\":\"ready\",\"blocks\":%ld,\"pages\":%ld,\"errors\":%lu}", block_count, options.memory_mib << 8,
	    counts.errors);
	if (options.pages_per_s > 0) pthread_create(&thread, 0, write_pages, 0);
	if (options.blocks_per_s > 0 && block_count > 0) pthread_create(&thread, 0, write_blocks, new_buffer());
	if (options.files_per_s > 0) pthread_create(&thread, 0, write_files, new_buffer());
	if (options.beat_ms > 0) pthread_create(&thread, 0, beat, 0);
	pthread_create(&thread, 0, report, 0);
	for (;;) {
		char c;
		if (read(console, &c, 1) != 1) continue;
		if (c == '\r') continue;
		if (c != '\n' && length < sizeof line - 1) line[length++] = c;
		else line[length] = 0, length = 0, obey(line);
	}
}
