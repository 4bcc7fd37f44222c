// Parses JSON that may end anywhere. Numbers stay text. Returns null if it is not an object.

export function parsePartialJSON(text) {
  let position = 0;
  const skipSpace = () => {
    while (" \n\r\t,:".includes(text[position] || "x")) position += 1;
  };
  function parseString() {
    const literal = /^"(?:[^"\\]|\\.)*"?/s.exec(text.slice(position))[0];
    position += literal.length;
    const isClosed = literal.length > 1 && /[^\\](?:\\\\)*"$/.test(literal);
    try {
      return JSON.parse(isClosed ? literal : `${literal.replace(/\\(?:u[\da-f]{0,3})?$/i, "")}"`);
    } catch {
      return literal.slice(1);
    }
  }
  function parseItems(close, parseItem) {
    position += 1;
    for (skipSpace(); position < text.length && text[position] !== close; skipSpace()) {
      const start = position;
      parseItem();
      if (position === start) position = text.length; // not JSON: stop
    }
    position += 1;
  }
  function parseValue() {
    skipSpace();
    if (text[position] === '"') return parseString();
    if (text[position] === "[") {
      const array = [];
      parseItems("]", () => array.push(parseValue()));
      return array;
    }
    if (text[position] === "{") {
      const object = Object.create(null);
      parseItems("}", () => {
        if (text[position] !== '"') return;
        const key = parseString();
        object[key] = parseValue();
      });
      return object;
    }
    const word = /^[-+.\w]+/.exec(text.slice(position));
    position += word ? word[0].length : 0;
    return word ? word[0] : undefined;
  }
  skipSpace();
  return text[position] === "{" ? parseValue() : null;
}
