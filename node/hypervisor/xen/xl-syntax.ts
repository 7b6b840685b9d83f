/**
 * The syntax of xl's configuration files: `key = value` and `key += value`, one per line or with semicolons between
 * them; strings in either quotes, numbers, lists over any number of lines, comments. What xl would refuse is refused.
 */

export type XlValue = string | number | readonly XlValue[];
export type XlSetting = { key: string; value: XlValue; line: number };

/** `line` is the file's, from 1. */
export class XlSyntaxError extends Error {
  override readonly name = "XlSyntaxError";
  readonly line: number;

  constructor(message: string, line: number) {
    super(message);
    this.line = line;
  }
}

const TEXT_CHARS_MAX = 1 << 20;
const DEPTH_MAX = 8;
const ESCAPES: Record<string, string> = { a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" };
const BLANKS = /(?:[ \t\r]|#[^\n]*)*/y;
const BLANKS_AND_LINES = /(?:[ \t\r\n]|#[^\n]*)*/y;
const KEY = /[A-Za-z_]\w*/y;
const NUMBER = /-?(?:0[xX][\da-fA-F]+|\d+)(?![\w.])/y;
const SEPARATORS = /(?:[ \t\r\n;]|#[^\n]*)*/y;

/** In the file's order; a key that stands twice has the value that stands last, as xl has it. */
export function parseXlSyntax(text: string): XlSetting[] {
  if (text.length > TEXT_CHARS_MAX)
    throw new XlSyntaxError("it is no configuration of xl: it is too long", 1);
  return new Parser(text).settings();
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  settings(): XlSetting[] {
    const found = new Map<string, XlSetting>();
    for (this.#skip(SEPARATORS); this.#at < this.#text.length; this.#skip(SEPARATORS)) {
      const line = this.#line();
      const key = this.#take(KEY) ?? this.#fail("a setting begins with its name");
      this.#skip(BLANKS);
      const isMore = this.#has("+=");
      if (!isMore && !this.#has("=")) this.#fail(`"=" is missing after ${key}`);
      this.#skip(BLANKS);
      const value = this.#value(0);
      this.#skip(BLANKS);
      if (this.#at < this.#text.length && !/[\n;]/.test(this.#text[this.#at]!))
        this.#fail(`something follows the value of ${key}; xl has no expressions`);
      const before = found.get(key);
      found.set(key, { key, value: isMore ? joined(before?.value, value) : value, line });
    }
    return [...found.values()];
  }

  #value(depth: number): XlValue {
    const sign = this.#text[this.#at];
    if (sign === '"' || sign === "'") return this.#string(sign);
    if (sign === "[") return this.#list(depth + 1);
    const number = this.#take(NUMBER);
    if (number === undefined) this.#fail("a value is a text in quotes, a number, or a list in brackets");
    // As strtoul reads it: a leading zero is octal.
    return /^-?0\d/.test(number) ? Number.parseInt(number, 8) : Number(number);
  }

  #list(depth: number): XlValue[] {
    if (depth > DEPTH_MAX) this.#fail("lists in lists in lists");
    const values: XlValue[] = [];
    this.#at += 1;
    for (;;) {
      this.#skip(BLANKS_AND_LINES);
      if (this.#has("]")) return values;
      values.push(this.#value(depth));
      this.#skip(BLANKS_AND_LINES);
      if (this.#has(",")) continue;
      if (this.#has("]")) return values;
      this.#fail('a list goes on with "," or ends with "]"');
    }
  }

  #string(quote: string): string {
    let value = "";
    for (this.#at += 1; ; this.#at += 1) {
      const sign = this.#text[this.#at];
      if (sign === undefined || sign === "\n") this.#fail("a text without its closing quote");
      if (sign === quote) break;
      value += sign === "\\" ? this.#escaped() : sign;
    }
    this.#at += 1;
    return value;
  }

  /** Leaves the position at the escape's last sign. */
  #escaped(): string {
    const octal = /\\([0-7]{1,3})/y;
    const hexadecimal = /\\x([\da-fA-F]{1,2})/y;
    for (const [pattern, base] of [
      [octal, 8],
      [hexadecimal, 16],
    ] as const) {
      const found = this.#match(pattern);
      if (found === undefined) continue;
      this.#at += found[0].length - 1;
      return String.fromCharCode(Number.parseInt(found[1]!, base) & 0xff);
    }
    this.#at += 1;
    const sign = this.#text[this.#at] ?? this.#fail("a text without its closing quote");
    if (ESCAPES[sign] !== undefined) return ESCAPES[sign];
    if (/[\\"'?]/.test(sign)) return sign;
    return this.#fail(`the escape \\${sign} is none of xl's`);
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text) ?? undefined;
  }

  #take(pattern: RegExp): string | undefined {
    const found = this.#match(pattern)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #skip(pattern: RegExp): void {
    this.#take(pattern);
  }

  #has(text: string): boolean {
    if (!this.#text.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #line(): number {
    return this.#text.slice(0, this.#at).split("\n").length;
  }

  #fail(message: string): never {
    throw new XlSyntaxError(message, this.#line());
  }
}

function joined(before: XlValue | undefined, more: XlValue): XlValue {
  if (before === undefined) return more;
  if (typeof before === "string" && typeof more === "string") return before + more;
  const listOf = (value: XlValue): readonly XlValue[] => (typeof value === "object" ? value : [value]);
  return [...listOf(before), ...listOf(more)];
}
