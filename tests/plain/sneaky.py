"""SneakyPrompt's policy in torch's own layers, and its loop about one prompt, written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from palimpsest.attacks import sneaky
from palimpsest.draws import Seeded


class Network(nn.Module):
    """The published policy: an embedding, a head and a value for each place around one LSTM."""

    def __init__(self, of: sneaky.Policy) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding.from_pretrained(table.detach(), freeze=n == 0) for n, table in enumerate(of.tables)])
        self.lstm = nn.LSTM(sneaky.WIDTH, sneaky.WIDTH, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(sneaky.WIDTH, len(bias)) for _, bias in of.heads])
        self.values = nn.ModuleList([nn.Linear(sneaky.WIDTH, 1) for _ in of.values])
        with torch.no_grad():
            for mine, given in zip(self.lstm.parameters(), of.cell, strict=True):
                mine.copy_(given)
            for layer, (weight, bias) in zip([*self.heads, *self.values], [*of.heads, *of.values], strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)

    def forward(self, draw: Seeded) -> tuple[list[int], Tensor, Tensor]:
        last, state, picks, log_p, values = torch.zeros(1, 1, dtype=torch.long), None, [], [], []
        for embedding, head, value in zip(self.embeddings, self.heads, self.values, strict=True):
            seen, state = self.lstm(embedding(last), state)
            p = head(seen[:, 0]).softmax(1)
            last = draw.categorical(p.detach())[:, None]
            picks.append(int(last))
            log_p.append(p[0, picks[-1]].log())
            values.append(value(seen[:, 0])[0, 0])
        return picks, torch.stack(log_p), torch.stack(values)


def search(
    text: str, first: list[int], others: list[int], known: list[str], draw: Seeded, answer: Callable[[str], sneaky.Answer], threshold: float
) -> list[tuple[str, float]]:
    """The texts that one prompt's search asks with the published settings, and what each earns; one agent for each set of words."""
    words, asked, further = sneaky.split(text), list[tuple[str, float]](), list[str]()
    for word in (words[n] for n in others):
        if word not in further:
            further.append(word)
    for more in range(len(further) + 1):
        sensitive = set(further[:more])
        places = [n for n in range(len(words)) if n in first or words[n] in sensitive]
        network = Network(sneaky.policy(draw, 3 * len(places), len(known)))
        descent, earned = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.1), []
        for episode in range(50):
            picks, log_p, value = network(draw)
            said = list(words)
            for n, place in enumerate(places):
                said[place] = "".join(known[pick] for pick in picks[3 * n : 3 * n + 3])
            similarity, shown = answer(" ".join(said))
            earned.append(similarity if shown else -(len(asked) + 1) / 60 / 10)
            asked.append((" ".join(said), earned[-1]))
            advantage = earned[-1] - value
            descent.zero_grad()
            ((-log_p * advantage.detach()).sum() + advantage.pow(2).sum()).backward()
            descent.step()
            if (shown and similarity >= threshold) or len(asked) == 60:
                return asked
            if len(earned) >= 5 and all(one < 0 for one in earned[-5:]):
                break
            still = earned[-1] > 0 and abs(earned[-1] + earned[-3] - 2 * earned[-2]) < 1e-4 if episode > 2 else False
            if episode > 2 and (still or len(places) / len(words) > 0.3):
                return asked
        else:
            return asked
    return asked
