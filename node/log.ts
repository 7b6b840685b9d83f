/**
 * The log: one JSON object per line, a constant message and structured fields.
 *
 * `error`: an operator must act. `warn`: will become an error if it persists. `info`: phase changes, start and
 * stop. `debug`: messages. Bytes never appear as text, only how many there are: a peer may have chosen them.
 */
import { createWriteStream } from "node:fs";
import { finished } from "node:stream/promises";

export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
  error(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
  /** The same log with `fields` on every line. */
  child(fields: LogFields): Log;
  /** Whether lines of `level` are written: to spare making costly fields. */
  enabled(level: LogLevel): boolean;
}

/** Takes whole lines, newline included. */
export type LogSink = (line: string) => void;

export type LogOptions = { readonly level: LogLevel; readonly sink: LogSink; readonly now?: () => Date };

export function createLog({ level, sink, now = () => new Date() }: LogOptions): Log {
  return new LineLog({ level, sink, now }, {});
}

/** A log that writes nothing. */
export const NO_LOG: Log = {
  error() {},
  warn() {},
  info() {},
  debug() {},
  child: () => NO_LOG,
  enabled: () => false,
};

export const stderrSink: LogSink = (line) => {
  process.stderr.write(line);
};

/** Appends to `file`, made readable by its owner only. `close` waits until all lines are written. */
export function fileSink(file: string): { sink: LogSink; close: () => Promise<void> } {
  const stream = createWriteStream(file, { flags: "a", mode: 0o600 });
  // A full disk must not end the daemon: lines are lost, and `close` says so.
  stream.on("error", () => {});
  return {
    sink: (line) => {
      stream.write(line);
    },
    close: async () => {
      stream.end();
      await finished(stream);
    },
  };
}

class LineLog implements Log {
  readonly #options: Required<LogOptions>;
  readonly #fields: LogFields;

  constructor(options: Required<LogOptions>, fields: LogFields) {
    this.#options = options;
    this.#fields = fields;
  }

  error(message: string, fields?: LogFields): void {
    this.#write("error", message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#write("warn", message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#write("info", message, fields);
  }

  debug(message: string, fields?: LogFields): void {
    this.#write("debug", message, fields);
  }

  child(fields: LogFields): Log {
    return new LineLog(this.#options, { ...this.#fields, ...fields });
  }

  enabled(level: LogLevel): boolean {
    return LOG_LEVELS.indexOf(level) <= LOG_LEVELS.indexOf(this.#options.level);
  }

  #write(level: LogLevel, message: string, fields?: LogFields): void {
    if (!this.enabled(level)) return;
    const { sink, now } = this.#options;
    const line = { time: now().toISOString(), level, message };
    // Spread twice: the three come first for the reader's eye, and no field can take their place.
    sink(`${stringify({ ...line, ...this.#fields, ...fields, ...line })}\n`);
  }
}

/** JSON of anything: a log line must never be what fails. */
function stringify(line: Record<string, unknown>): string {
  // The way from the line to where JSON.stringify is: what was logged, and the plain form that stands for it.
  const path: { original: unknown; plain: unknown }[] = [];
  try {
    return JSON.stringify(line, function (this: Record<string, unknown>, key: string, value: unknown) {
      while (path.length > 0 && path.at(-1)!.plain !== this) path.pop();
      // From the holder: `value` went through toJSON already, and a Buffer's lists its bytes.
      const original = this[key];
      if (path.some((step) => step.original === original)) return "[circular]";
      const plain = ArrayBuffer.isView(original) ? { bytes: original.byteLength } : plainOf(value);
      if (typeof plain === "object" && plain !== null) path.push({ original, plain });
      return plain;
    });
  } catch (error) {
    const { time, level, message } = line;
    return JSON.stringify({ time, level, message, unloggable: String(error) });
  }
}

function plainOf(value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Error) return errorFieldsOf(value);
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  return value;
}

function errorFieldsOf(error: Error): Record<string, unknown> {
  return {
    name: error.name,
    ...("code" in error ? { code: error.code } : {}),
    message: error.message,
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: error.cause }),
  };
}
