"""Makes tests/study/inside/facts.jsonl: `python -m tests.study.inside.facts PEER`.

Candidates are regular in the training text: "NAME the son of NAME" and "NAME king of PLACE" of the
two Bibles, long names with their short ones in brackets, of the API texts, and what comes after
"WORD and". A fact is taken where what is before is followed by that target in half of its places or
more, and where the run knows it: the target's logarithm of probability is a nat or more above its
mean after the prompts of the next eight candidates. Its siblings are the four taken facts of its
relation that come after it, and no two facts of a relation have one target. Relations of fewer than
five such facts are left out.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from experiments.finished.model import read_run
from experiments.finished.scores import make_scorer
from experiments.records.files import read_record
from experiments.tasks.scoring import Encoder
from tests.study.inside.files import FACTS

N_SIBLINGS, N_OTHERS = 4, 8
NATS = 1.0
OFTEN = 0.5  # of a subject's places have the target
NAME = "[A-Z][a-z]+"
BIBLES, APIS = ("bible_kjv", "bible_web"), ("api_aws", "api_google")
OTHERS = ("wiki_leads", "wikitext2", "gcide", "shakespeare", "tatoeba", "attack", "licences")
TRAINED = (*BIBLES, *APIS, *OTHERS)
RELATIONS = {  # name: domains, pattern of (subject, target), form of the prompt, fewest places
    "son": (BIBLES, rf"\b({NAME}),? the son of( {NAME})", "{} the son of", 6),
    "king": (BIBLES, rf"\b({NAME}),? king of( {NAME})", "{} king of", 6),
    "short": (
        APIS,
        r"\b((?:[A-Z]\w+ ){1,4}[A-Z]\w+) \(((?:Amazon )?[A-Z][A-Za-z0-9]{1,5})\)",
        "{} (",
        10,
    ),
    "pair": (TRAINED, r"\b([A-Za-z]{3,}) and(?=( [A-Za-z]{3,})\b)", "{} and", 60),
}


def candidates(corpus, cache):
    """(relation, prompt, target), of the training text."""
    for relation, (domains, pattern, form, fewest) in RELATIONS.items():
        seen, about = Counter(), defaultdict(Counter)
        for domain in domains:
            for text in corpus.documents(f"train/{domain}", cache):
                for subject, target in re.findall(pattern, " ".join(text.split())):
                    seen[subject, target] += 1
                    about[subject][target] += 1
        for (subject, target), n in seen.most_common():
            if n >= fewest and n >= OFTEN * sum(about[subject].values()):
                yield relation, form.format(subject), target


def known(scorer, encoder, pairs):
    """Whether each of a relation's (prompt, target) is: (n,)."""
    n = len(pairs)
    others = [[pairs[(i + j) % n][0] for j in range(1, N_OTHERS + 1)] for i in range(n)]
    asked = [
        encoder.encode_pair(prompt, target)
        for (own, target), more in zip(pairs, others, strict=True)
        for prompt in (own, *more)
    ]
    scores = [one.logprob for one in scorer.loglikelihoods(asked, quiet=True)]
    by_fact = np.array(scores).reshape(n, 1 + N_OTHERS)
    return by_fact[:, 0] >= by_fact[:, 1:].mean(1) + NATS


def main():
    run_dir = Path(sys.argv[1])
    run = read_run(run_dir, read_record(run_dir / "record.json"))
    scorer, encoder = make_scorer(run), Encoder.of(run.vocabulary)
    found = defaultdict(list)
    for relation, prompt, target in candidates(run.config.data.corpus, run.cache):
        found[relation].append((prompt, target))
    lines = []
    for relation, pairs in found.items():
        sure, targets = [], set()
        for pair, taken in zip(pairs, known(scorer, encoder, pairs), strict=True):
            if taken and pair[1] not in targets:
                sure.append(pair)
                targets.add(pair[1])
        enough = len(sure) > N_SIBLINGS
        kept = "" if enough else ", left out"
        print(f"{relation}: {len(pairs)} candidates, {len(sure)} known{kept}")
        for i, (prompt, target) in enumerate(sure if enough else ()):
            others = [sure[(i + 1 + j) % len(sure)] for j in range(N_SIBLINGS)]
            siblings = [{"prompt": p, "target": t} for p, t in others]
            lines.append({"prompt": prompt, "target": target, "siblings": siblings})
    FACTS.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


if __name__ == "__main__":
    main()
