"""Trees of settings as the tests of configurations see them, without the package's own reading of them."""

import yaml


def plain(tree):
    """Printed settings with classes by the names that people give them."""
    if isinstance(tree, dict):
        return {k: v.rpartition(".")[2] if k == "class_path" else plain(v) for k, v in tree.items()}
    return [plain(item) for item in tree] if isinstance(tree, list) else tree


def leaves(tree, path=""):
    """Settings by their dotted names."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for name, part in tree.items() for k, v in leaves(part, f"{path}.{name}".lstrip(".")).items()}


def says(printed, given):
    """Whether printed settings hold all that was given; they hold defaults, too."""
    if isinstance(given, dict):
        return isinstance(printed, dict) and all(k in printed and says(printed[k], v) for k, v in given.items())
    if isinstance(given, list):
        return len(printed) == len(given) and all(map(says, printed, given))
    return printed == given


def laid_over(below, above):
    """Settings with others laid over them; arguments of another class are no arguments of this one."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if "class_path" in above and above["class_path"] != below.get("class_path"):
        return above
    return {**below, **{k: laid_over(below.get(k), v) for k, v in above.items()}}


def load(text):
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # hundreds of files
