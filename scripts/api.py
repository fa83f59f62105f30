"""Lists the public interfaces of the libraries, from the JSON that rustdoc writes of them, and says which crates' types they have.
Called by scripts/api."""

import difflib
import json
import sys
from pathlib import Path

STANDARD = {"std", "core", "alloc"}
# The crates whose types may be in the interface of each library: a breaking release of one of them breaks the library's users, too.
ALLOWED = {
    "http-h2": set(),
    "app-env": {"http_h2"},
    "proxy-http": {"bytes", "http", "http_body", "http_h2", "tokio", "tower_service"},
}
# The same, for modules that may have more.
ALLOWED_IN = {"proxy_http::hyper": {"hyper"}}
FORMAT = 57
AUTO = ["Send", "Sync", "Unpin"]
# Implemented by the compiler, and of no use by name.
HIDDEN = {"StructuralPartialEq", "Freeze", "UnsafeUnpin"}


class Library:
    def __init__(self, package):
        self.package = package
        self.doc = json.loads(Path(f"target/doc/{package.replace('-', '_')}.json").read_text())
        found = self.doc["format_version"]
        if found != FORMAT:
            sys.exit(f"rustdoc writes format {found}, and scripts/api.py reads {FORMAT}: see the changes of rustdoc-types")
        self.index = self.doc["index"]
        self.lines = set()
        self.foreign = set()
        self.public = {}
        root = str(self.doc["root"])
        self.walk(root, self.index[root]["name"], self.name)
        self.walk(root, self.index[root]["name"], self.render)

    # The walk over public items, by the paths that users have for them.

    def walk(self, id, path, visit, seen=()):
        item = self.index[id]
        for child in item["inner"]["module"]["items"]:
            child = self.index[str(child)]
            if child["visibility"] != "public":
                continue
            if "use" in child["inner"]:
                use = child["inner"]["use"]
                target = self.index.get(str(use["id"])) if use["id"] is not None else None
                if target is None:
                    visit(child, f"{path}::{use['name']}")
                    continue
                assert not use["is_glob"], use
                child, name = target, use["name"]
            else:
                name = child["name"]
            below = f"{path}::{name}"
            visit(child, below)
            if "module" in child["inner"] and below not in seen:
                self.walk(str(child["id"]), below, visit, (*seen, below))

    def name(self, item, path):
        known = self.public.get(item["id"])
        if known is None or len(path) < len(known):
            self.public[item["id"]] = path

    def render(self, item, path):
        self.at = path
        (kind, inner), = item["inner"].items()
        if self.public.get(item["id"], path) != path:
            return self.say(f"use {self.public[item['id']]} as {path}")
        getattr(self, kind)(item, inner, path)

    def say(self, text):
        self.lines.add((self.at, text))

    # Items.

    def module(self, item, inner, path):
        self.say(f"mod {path}")

    def use(self, item, inner, path):
        self.say(f"use {self.path({'id': inner['id'], 'path': inner['source']})} as {path}")

    def struct(self, item, inner, path):
        (kind, fields), = inner["kind"].items() if isinstance(inner["kind"], dict) else [(inner["kind"], None)]
        hidden = ""
        if kind == "plain":
            public = [self.index[str(field)] for field in fields["fields"]]
            hidden = " { .. }" if fields["has_stripped_fields"] else ""
            for field in public:
                self.say(f"{path}::{field['name']}: {self.type(field['inner']['struct_field'])}")
        elif kind == "tuple":
            shown = ["_" if field is None else self.type(self.index[str(field)]["inner"]["struct_field"]) for field in fields]
            hidden = f"({', '.join(shown)})"
        self.say(f"{self.attributes(item)}struct {path}{self.generics(inner['generics'])}{hidden}")
        self.impls(inner["impls"], path)

    def enum(self, item, inner, path):
        self.say(f"{self.attributes(item)}enum {path}{self.generics(inner['generics'])}")
        for variant in inner["variants"]:
            variant = self.index[str(variant)]
            kind, shown = variant["inner"]["variant"]["kind"], ""
            if "tuple" in kind:
                fields = [self.type(self.index[str(field)]["inner"]["struct_field"]) for field in kind["tuple"]]
                shown = f"({', '.join(fields)})"
            elif "struct" in kind:
                fields = [self.index[str(field)] for field in kind["struct"]["fields"]]
                fields = [f"{field['name']}: {self.type(field['inner']['struct_field'])}" for field in fields]
                shown = f" {{ {', '.join(fields)} }}"
            self.say(f"{self.attributes(variant)}{path}::{variant['name']}{shown}")
        self.impls(inner["impls"], path)

    def trait(self, item, inner, path):
        bounds = self.bounds(inner["bounds"])
        self.say(f"{self.attributes(item)}trait {path}{self.generics(inner['generics'])}{': ' if bounds else ''}{bounds}")
        for member in inner["items"]:
            self.member(self.index[str(member)], path)

    def function(self, item, inner, path, block=""):
        header, sig = inner["header"], inner["sig"]
        words = "".join(f"{word} " for word in ("const", "async", "unsafe") if header.get(f"is_{word}"))
        inputs = [f"{name}: {self.type(type)}" for name, type in sig["inputs"]]
        output = f" -> {self.type(sig['output'])}" if sig["output"] else ""
        generics, where = self.parameters(inner["generics"])
        self.say(f"{block}{self.attributes(item)}{words}fn {path}{generics}({', '.join(inputs)}){output}{where}")

    def constant(self, item, inner, path):
        self.say(f"const {path}: {self.type(inner['type'])}")

    def static(self, item, inner, path):
        self.say(f"static {path}: {self.type(inner['type'])}")

    def type_alias(self, item, inner, path):
        self.say(f"type {path}{self.generics(inner['generics'])} = {self.type(inner['type'])}")

    def macro(self, item, inner, path):
        self.say(f"macro {path}")

    def member(self, item, path, block=""):
        (kind, inner), = item["inner"].items()
        path = f"{path}::{item['name']}"
        if kind == "assoc_const":
            self.say(f"{block}const {path}: {self.type(inner['type'])}")
        elif kind == "assoc_type":
            value = f" = {self.type(inner['type'])}" if inner["type"] else ""
            self.say(f"type {path}{value}")
        else:
            self.function(item, inner, path, block)

    def impls(self, ids, path):
        auto = set()
        for impl in (self.index[str(id)]["inner"]["impl"] for id in ids):
            trait = impl["trait"]
            if trait is None:
                generics, where = self.parameters(impl["generics"])
                block = f"in impl{generics} {self.type(impl['for'])}{where}: " if where or ":" in generics else ""
                for member in map(str, impl["items"]):
                    if self.index[member]["visibility"] == "public":
                        self.member(self.index[member], path, block)
                continue
            name = trait["path"].rsplit("::", 1)[-1]
            if name in HIDDEN or impl["blanket_impl"] is not None:
                continue
            if impl["is_synthetic"]:
                auto.update([] if impl["is_negative"] else [name])
                continue
            generics, where = self.parameters(impl["generics"])
            head = f"impl{generics} {self.path(trait)} for {self.type(impl['for'])}{where}"
            types = [self.index[str(member)] for member in impl["items"]]
            types = [f"{one['name']} = {self.type(one['inner']['assoc_type']['type'])}" for one in types if "assoc_type" in one["inner"]]
            self.say(f"{head}{' { ' if types else ''}{', '.join(types)}{' }' if types else ''}")
        self.say(f"auto {path}: {' '.join(name if name in auto else f'!{name}' for name in AUTO)}")

    # Parts of items.

    def attributes(self, item):
        shown = [name for name in ("non_exhaustive", "must_use") if any(name in attribute for attribute in item["attrs"])]
        shown += ["deprecated"] if item["deprecation"] else []
        return "".join(f"#[{name}] " for name in shown)

    def path(self, path):
        """The path of a type or a trait, and its arguments."""
        known = self.doc["paths"].get(str(path["id"]))
        if path["id"] in self.public:
            name = self.public[path["id"]]
        elif known is None:
            name = path["path"]
        else:
            crate = self.doc["external_crates"].get(str(known["crate_id"]), {}).get("name")
            if crate is None:
                sys.exit(f"{self.at} names {'::'.join(known['path'])}, which is not public")
            name = known["path"][-1] if crate in STANDARD else "::".join(known["path"])
            if crate not in STANDARD:
                self.foreign.add((crate, self.at))
        return name + self.arguments(path.get("args"))

    def arguments(self, args):
        if not args:
            return ""
        if "parenthesized" in args:
            inputs = ", ".join(map(self.type, args["parenthesized"]["inputs"]))
            output = args["parenthesized"]["output"]
            return f"({inputs})" + (f" -> {self.type(output)}" if output else "")
        shown = [self.argument(arg) for arg in args["angle_bracketed"]["args"]]
        for constraint in args["angle_bracketed"]["constraints"]:
            (kind, binding), = constraint["binding"].items()
            name = constraint["name"] + self.arguments(constraint["args"])
            shown.append(f"{name}: {self.bounds(binding)}" if kind == "constraint" else f"{name} = {self.term(binding)}")
        return f"<{', '.join(shown)}>" if shown else ""

    def argument(self, arg):
        if arg == "infer":
            return "_"
        (kind, value), = arg.items()
        return value if kind == "lifetime" else self.type(value) if kind == "type" else value["expr"]

    def term(self, term):
        return self.type(term["type"]) if "type" in term else term["constant"]["expr"]

    def bounds(self, bounds):
        shown = []
        for bound in bounds:
            (kind, value), = bound.items()
            if kind == "outlives":
                shown.append(value)
            elif kind == "use":
                shown.append("use<..>")
            else:
                shown.append(("?" if value["modifier"] == "maybe" else "") + self.path(value["trait"]))
        return " + ".join(shown)

    def generics(self, generics):
        return "".join(self.parameters(generics))

    def parameters(self, generics):
        """The parameters between angle brackets, and the where clause."""
        shown = []
        for param in generics["params"]:
            (kind, value), = param["kind"].items()
            if kind == "lifetime":
                shown.append(param["name"])
            elif kind == "const":
                shown.append(f"const {param['name']}: {self.type(value['type'])}")
            elif not value["is_synthetic"]:
                bounds = self.bounds(value["bounds"])
                default = f" = {self.type(value['default'])}" if value["default"] else ""
                shown.append(f"{param['name']}{': ' if bounds else ''}{bounds}{default}")
        where = []
        for predicate in generics["where_predicates"]:
            (kind, value), = predicate.items()
            if kind == "bound_predicate":
                where.append(f"{self.type(value['type'])}: {self.bounds(value['bounds'])}")
            elif kind == "lifetime_predicate":
                where.append(f"{value['lifetime']}: {' + '.join(value['outlives'])}")
            else:
                where.append(f"{self.type(value['lhs'])} = {self.term(value['rhs'])}")
        return f"<{', '.join(shown)}>" if shown else "", f" where {', '.join(where)}" if where else ""

    def type(self, type):
        (kind, value), = type.items()
        if kind == "resolved_path":
            return self.path(value)
        if kind in ("generic", "primitive"):
            return value
        if kind == "tuple":
            return f"({', '.join(map(self.type, value))}{',' if len(value) == 1 else ''})"
        if kind == "slice":
            return f"[{self.type(value)}]"
        if kind == "array":
            return f"[{self.type(value['type'])}; {value['len']}]"
        if kind == "borrowed_ref":
            lifetime = f"{value['lifetime']} " if value["lifetime"] else ""
            return f"&{lifetime}{'mut ' if value['is_mutable'] else ''}{self.type(value['type'])}"
        if kind == "raw_pointer":
            return f"*{'mut' if value['is_mutable'] else 'const'} {self.type(value['type'])}"
        if kind == "impl_trait":
            return f"impl {self.bounds(value)}"
        if kind == "dyn_trait":
            traits = [self.path(one["trait"]) for one in value["traits"]] + ([value["lifetime"]] if value["lifetime"] else [])
            return f"dyn {' + '.join(traits)}"
        if kind == "function_pointer":
            inputs = ", ".join(self.type(input) for _, input in value["sig"]["inputs"])
            output = value["sig"]["output"]
            return f"fn({inputs})" + (f" -> {self.type(output)}" if output else "")
        if kind == "qualified_path":
            of = self.type(value["self_type"])
            name = value["name"] + self.arguments(value["args"])
            return f"<{of} as {self.path(value['trait'])}>::{name}" if value["trait"] and value["trait"]["path"] else f"{of}::{name}"
        sys.exit(f"{self.at} has a type that scripts/api.py does not know: {kind}")

    # Checks.

    def forbidden(self):
        for crate, at in sorted(self.foreign):
            more = set().union(*(more for module, more in ALLOWED_IN.items() if f"{at}::".startswith(f"{module}::")))
            if crate not in ALLOWED[self.package] | more:
                yield f"{self.package}: {at} has a type of {crate} in its interface"


def main():
    failed = False
    for package in ALLOWED:
        library = Library(package)
        forbidden = list(library.forbidden())
        lines = [text for _, text in sorted(library.lines)]
        listed = Path(package) / "public-api.txt"
        if "--write" in sys.argv:
            listed.write_text("\n".join(lines) + "\n")
        before = listed.read_text().splitlines()
        changes = list(difflib.unified_diff(before, lines, str(listed), "the code", lineterm="", n=0))
        print(f"{package}: {len(lines)} lines{', changed' if changes else ''}", *forbidden, *changes, sep="\n")
        if changes:
            print("if this is meant: scripts/api --write, and a line in CHANGELOG.md for the library's users")
        failed = failed or bool(forbidden or changes)
    sys.exit(failed)


main()
