/**
 * Lets a suspended guest go on where it was stopped: `libxl_domain_resume`, which xl has as a command only from 4.20
 * on. A process of its own: libxl wants to be alone with its children and its signals. Its argument is the domid; it
 * ends with 0 when the guest runs.
 */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

type Koffi = typeof import("koffi");

/** What libxl calls itself in `libxl_ctx_alloc`, in all of its releases. */
const LIBXL_VERSION = 0;
const XTL_ERROR = 7;
const STDERR = 2;
/** The guest's own front ends go on as they were, rather than begin anew. */
const SUSPEND_CANCEL = 1;

function main(domid: number): number {
  const koffi = createRequire(import.meta.url)("koffi") as Koffi;
  const [major, minor] = ["major", "minor"].map((part) =>
    readFileSync(`/sys/hypervisor/version/${part}`, "utf8").trim(),
  );
  const libxl = koffi.load(`libxenlight.so.${major}.${minor}`);
  const log = koffi.load("libxentoollog.so.1");
  const libc = koffi.load("libc.so.6");
  const fdopen = libc.func("void *fdopen(int fd, const char *mode)");
  const createLogger = log.func(
    "void *xtl_createlogger_stdiostream(void *file, int level, unsigned int flags)",
  );
  const contextAlloc = libxl.func(
    "int libxl_ctx_alloc(_Out_ void **ctx, int version, unsigned int flags, void *log)",
  );
  const resume = libxl.func("int libxl_domain_resume(void *ctx, uint32_t domid, int cancel, void *how)");
  const context: [unknown] = [null];
  const failed = Number(
    contextAlloc(context, LIBXL_VERSION, 0, createLogger(fdopen(STDERR, "w"), XTL_ERROR, 0)),
  );
  if (failed !== 0) return failed;
  return Number(resume(context[0], domid, SUSPEND_CANCEL, null));
}

const result = main(Number(process.argv[2]));
if (result !== 0) process.stderr.write(`libxl_domain_resume: ${result}\n`);
process.exitCode = result === 0 ? 0 : 1;
