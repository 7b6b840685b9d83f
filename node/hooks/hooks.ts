/**
 * An operator's programs at the steps of a migration: a DNS entry, a tunnel, a route that has to follow the domain.
 *
 * A hook is an executable file in the hooks' folder, named for its step. It gets one JSON object on stdin (`HookFacts`
 * and the hook's name) and has `timeoutMs` to end. What it prints is logged. One that fails or is not there changes
 * nothing, with one exception: a `pre-migrate` that fails prevents the migration.
 */

import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import type { Log } from "../log.ts";

export const HOOKS = {
  "pre-migrate": "at the source, before anything is sent; a failure prevents the migration",
  "pre-freeze": "at the source, before the domain is frozen; the freeze waits for it",
  "post-resume": "at the destination, as soon as the domain runs there",
  "post-migrate": "at the source, once the domain needs nothing of it any more",
  failed: "at the source, when a migration ended before the handover: the domain runs on there",
} as const;
export type HookName = keyof typeof HOOKS;

export type HookFacts = {
  /** The domain's id and name. */
  domain: string;
  name: string;
  migration: string;
  /** Names or ids of the hosts. */
  from: string;
  to: string;
  /** Under which the domain runs at the destination. */
  generation: number;
  /** Of `failed`. */
  reason?: string;
};

export type HookOptions = { folder: string; timeoutMs: number };

/** `absent`: there is no such hook. */
export type HookResult = { outcome: "absent" | "done" } | { outcome: "failed"; reason: string };

/** Of stdout and stderr together, each; the rest is read and dropped. */
const OUTPUT_CHARS_MAX = 4096;

export class Hooks {
  readonly #log: Log;
  readonly #options: HookOptions;

  constructor(log: Log, options: HookOptions) {
    this.#log = log;
    this.#options = options;
  }

  /** Never rejects. */
  async run(hook: HookName, facts: HookFacts): Promise<HookResult> {
    const path = join(this.#options.folder, hook);
    if (!(await exists(path))) return { outcome: "absent" };
    const startedAt = performance.now();
    const { reason, output } = await this.#execute(path, { hook, ...facts });
    const durationMs = Math.round(performance.now() - startedAt);
    const fields = { hook, domain: facts.domain, migration: facts.migration, durationMs, output };
    if (reason === undefined) {
      this.#log.info("hook done", fields);
      return { outcome: "done" };
    }
    this.#log.error("hook failed", { ...fields, path, reason });
    return { outcome: "failed", reason };
  }

  #execute(
    path: string,
    facts: HookFacts & { hook: HookName },
  ): Promise<{ reason?: string; output: string }> {
    const { timeoutMs } = this.#options;
    const { promise, resolve } = Promise.withResolvers<{ reason?: string; output: string }>();
    let output = "";
    let isLate = false;
    const child = spawn(path, [], {
      // A group of its own: what it started ends with it when its time is over.
      detached: true,
      cwd: "/",
      env: { PATH: process.env.PATH ?? "", SOJOURN_HOOK: facts.hook },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const timer = setTimeout(() => {
      isLate = true;
      killGroup(child.pid);
    }, timeoutMs);
    const settle = (reason: string | undefined): void => {
      clearTimeout(timer);
      resolve({ output: output.trim(), ...(reason !== undefined && { reason }) });
    };
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        output = (output + text).slice(0, OUTPUT_CHARS_MAX);
      });
    }
    child.once("error", (error) => settle(error.message));
    child.once("close", (code, signal) => {
      if (isLate) settle(`it did not end within ${timeoutMs} ms`);
      else settle(code === 0 ? undefined : `it ended with ${signal ?? `exit code ${code}`}`);
    });
    // A hook need not read what it is told.
    child.stdin.on("error", () => {});
    child.stdin.end(`${JSON.stringify(facts)}\n`);
    return promise;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path, constants.F_OK);
    return true;
  } catch {
    return false;
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It ended between our look and now.
  }
}
