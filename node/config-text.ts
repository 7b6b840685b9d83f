/** The text of `config.json`: JSON, and lines that begin with `//` for whoever reads it. */

/** Throws SyntaxError; its positions are those of the text, comments included. */
export function parseConfigText(text: string): unknown {
  // Emptied, not left out: a mistake is reported where it is. No JSON string spans lines.
  return JSON.parse(text.replace(/^[\t ]*\/\/.*$/gm, (comment) => " ".repeat(comment.length)));
}

/** `settings`, and below them every option with its meaning and its default, as comments. */
export function configText(settings: Record<string, unknown>, reference: string): string {
  const head = [
    "Settings of this host; a line that begins with // is a comment. An option that is not here has its default.",
    "All options, with their defaults and why, are below. One with a dot in its name lies in an object:",
    'control.listen is { "control": { "listen": ... } }. They count from the next start of `sojourn up` on.',
  ];
  const comment = (line: string): string => `// ${line}`.trimEnd();
  const lines = [
    ...head.map(comment),
    JSON.stringify(settings, null, 2),
    "",
    ...reference.trimEnd().split("\n").map(comment),
  ];
  return `${lines.join("\n")}\n`;
}
