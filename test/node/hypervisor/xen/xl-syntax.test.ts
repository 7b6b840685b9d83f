import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseXlSyntax, XlSyntaxError, type XlValue } from "../../../../node/hypervisor/xen/xl-syntax.ts";

function valuesOf(text: string): Record<string, XlValue> {
  return Object.fromEntries(parseXlSyntax(text).map(({ key, value }) => [key, value]));
}

function problemOf(text: string): string {
  try {
    parseXlSyntax(text);
  } catch (error) {
    if (error instanceof XlSyntaxError) return `${error.line}: ${error.message}`;
    throw error;
  }
  return "none";
}

describe("the syntax of xl's configurations", () => {
  it("has texts in either quotes, numbers in three bases, and comments", () => {
    const text = `# a comment
name = "web" # another one
extra='root=/dev/xvda1 # no comment'; memory = 1024
vcpus=0x2
mode = 010
offset = -3
`;
    expect(valuesOf(text)).toEqual({
      ...{ name: "web", extra: "root=/dev/xvda1 # no comment", memory: 1024 },
      ...{ vcpus: 2, mode: 8, offset: -3 },
    });
  });

  it("has lists over several lines, with a comma at the end, and lists in lists", () => {
    const text = `disk = [
  'a',   # the first
  "b",
]
empty = []
cpus = [ [0, 1], 2 ]`;
    expect(valuesOf(text)).toEqual({ disk: ["a", "b"], empty: [], cpus: [[0, 1], 2] });
  });

  it("has escapes as C has them", () => {
    expect(valuesOf(String.raw`a = "x\"y\\z\n\101\x42"`)).toEqual({ a: 'x"y\\z\nAB' });
  });

  it("adds to texts and lists with +=, and a later value replaces an earlier one", () => {
    expect(valuesOf("a='x'\na+='y'\nb=['1']\nb+=['2']\nc=1\nc=2")).toEqual({ a: "xy", b: ["1", "2"], c: 2 });
  });

  it("knows the line of a setting, after a list of several lines, too", () => {
    expect(parseXlSyntax("a = [\n1,\n2\n]\n\nb = 1\n").map(({ key, line }) => [key, line])).toEqual([
      ["a", 1],
      ["b", 6],
    ]);
  });

  it.each([
    ["a text that does not end", 'a = 1\nb = "x', "2: a text without its closing quote"],
    ["a text over two lines", 'a = "x\ny"', "1: a text without its closing quote"],
    ["a list that does not end", "a = [ 1, 2", '1: a list goes on with "," or ends with "]"'],
    ["two values", "a = 1 2", "1: something follows the value of a; xl has no expressions"],
    ["an expression", "import os\na = 1", '1: "=" is missing after import'],
    ["a word for a value", "a = True", "1: a value is a text in quotes, a number, or a list in brackets"],
    ["a setting without a name", "\n= 1", "2: a setting begins with its name"],
    ["an escape of somebody else's", String.raw`a = "\q"`, String.raw`1: the escape \q is none of xl's`],
    ["lists without an end of depth", `a = ${"[".repeat(50)}`, "1: lists in lists in lists"],
  ])("refuses %s, with its line", (_what, text, problem) => {
    expect(problemOf(text)).toBe(problem);
  });

  it("reads back whatever texts and numbers it was given, and never fails but with a line", () => {
    const quoted = (text: string): string => `"${text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n")}"`;
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.string(), fc.nat())), (values) => {
        const list = values.map((value) => (typeof value === "number" ? String(value) : quoted(value)));
        expect(valuesOf(`a = [ ${list.join(",\n")} ]`)).toEqual({ a: values });
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."ab=[],\"'\\#\n;+ 1x") }), (text) => {
        expect(problemOf(text)).toMatch(/^(?:none|\d+: .*)$/);
      }),
    );
  });
});
