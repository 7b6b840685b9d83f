/**
 * The configuration's schema as command line flags and as text. `migration.iterationsMax` becomes
 * `--migration-iterations-max <number>`; what the flags say goes over what the file says, and the schema
 * judges the two together.
 */
import { Option } from "commander";
import { z } from "zod";

/** One option of a schema. */
export type ConfigOption = {
  /** Keys from the outside in. */
  readonly path: readonly string[];
  readonly kind: "boolean" | "number" | "text" | "json";
  /** `--migration-iterations-max <number>` */
  readonly flag: string;
  readonly description: string;
  /** What holds when nobody says anything; undefined where that is nothing. */
  readonly defaultValue: unknown;
  /** Why that default. */
  readonly reason: string | undefined;
};

/** All options of `schema`, in its order. */
export function optionsOf(schema: z.ZodObject, path: readonly string[] = []): ConfigOption[] {
  return Object.entries(schema.shape).flatMap(([key, value]) => {
    const { inner, defaultValue } = unwrap(value as z.ZodType);
    const here = [...path, key];
    if (inner instanceof z.ZodObject) return optionsOf(inner, here);
    const { description = "", reason, placeholder } = metaOf(value as z.ZodType);
    const kind = kindOf(inner);
    const argument = kind === "boolean" ? "" : ` <${placeholder ?? kind}>`;
    return [{ path: here, kind, flag: `--${flagName(here)}${argument}`, description, defaultValue, reason }];
  });
}

/** The flags for commander, without defaults: what was not said must not go over the file. */
export function flagsOf(schema: z.ZodObject): Option[] {
  return optionsOf(schema).map(({ flag, description, defaultValue }) => {
    const note = defaultValue === undefined ? "" : ` (default: ${JSON.stringify(defaultValue)})`;
    return new Option(flag, `${description}${note}`);
  });
}

/**
 * A copy of `base` (the file's value, or undefined) with what `flags` says in its place; `flags` is commander's
 * `opts()`. Text that is no number or no JSON stays text: the schema refuses it with its path.
 */
export function applyFlags(
  schema: z.ZodObject,
  base: unknown,
  flags: Readonly<Record<string, unknown>>,
): unknown {
  const said = optionsOf(schema).flatMap((option) => {
    const value = flags[new Option(option.flag).attributeName()];
    return value === undefined ? [] : [{ path: option.path, value: flagValue(option.kind, value) }];
  });
  if (said.length === 0) return base ?? {};
  if (base !== undefined && !isRecord(base)) return base;
  const result: Record<string, unknown> = structuredClone(base ?? {});
  for (const { path, value } of said) setAt(result, path, value);
  return result;
}

/** Every option with its meaning, its default and the reason for it, as `sojourn init` prints it. */
export function configReference(schema: z.ZodObject): string {
  return optionsOf(schema)
    .map(({ path, description, defaultValue, reason }) => {
      const lines = [path.join("."), `    ${description}`];
      if (defaultValue !== undefined) lines.push(`    default ${JSON.stringify(defaultValue)}: ${reason}`);
      return `${lines.join("\n")}\n`;
    })
    .join("\n");
}

function unwrap(schema: z.ZodType): { inner: z.ZodType; defaultValue: unknown } {
  if (schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault) {
    const { inner } = unwrap(schema.def.innerType as z.ZodType);
    return { inner, defaultValue: schema.def.defaultValue };
  }
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodExactOptional) {
    return unwrap(schema.def.innerType as z.ZodType);
  }
  return { inner: schema, defaultValue: undefined };
}

function kindOf(schema: z.ZodType): ConfigOption["kind"] {
  if (schema instanceof z.ZodBoolean) return "boolean";
  if (schema instanceof z.ZodNumber) return "number";
  if (schema instanceof z.ZodArray) return "json";
  return "text";
}

function metaOf(schema: z.ZodType): { description?: string; reason?: string; placeholder?: string } {
  return (schema.meta() ?? {}) as { description?: string; reason?: string; placeholder?: string };
}

function flagName(path: readonly string[]): string {
  return path.map((key) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)).join("-");
}

function flagValue(kind: ConfigOption["kind"], value: unknown): unknown {
  if (typeof value !== "string") return value;
  if (kind === "number") return value.trim() === "" || Number.isNaN(Number(value)) ? value : Number(value);
  if (kind !== "json") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

function setAt(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [key = "", ...rest] = path;
  if (rest.length === 0) {
    target[key] = value;
    return;
  }
  const child = (target[key] ??= {});
  // Anything else is a mistake in the file: left for the schema to refuse.
  if (isRecord(child)) setAt(child, rest, value);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
