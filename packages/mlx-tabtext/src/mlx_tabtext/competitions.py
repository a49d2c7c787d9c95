"""Readable labels, code words and templates for well-known competitions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.house_labels import HOUSE_LABELS
from mlx_tabtext.house_words import HOUSE_WORDS
from mlx_tabtext.schema import Kind
from mlx_tabtext.table import TableError


@dataclass(frozen=True)
class CompetitionTexts:
    """What is known of a competition's columns.

    `labels`, `words` and `kinds` are arguments of `infer_schema`, `template` one of `TextConfig`.
    `labels` names every input column, so that it also tells the competition by its columns.
    """

    labels: Mapping[str, str]
    template: str | None = None
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)


COMPETITIONS: dict[str, CompetitionTexts] = {
    "titanic": CompetitionTexts(
        labels={
            "Pclass": "ticket class",
            "Name": "name",
            "Sex": "sex",
            "Age": "age",
            "SibSp": "siblings or spouses aboard",
            "Parch": "parents or children aboard",
            "Ticket": "ticket number",
            "Fare": "fare",
            "Cabin": "cabin",
            "Embarked": "boarded at",
        },
        template=(
            "{Name}, {Sex}, travelled in {Pclass} class. Age {Age}. "
            "Siblings or spouses aboard: {SibSp}. Parents or children aboard: {Parch}. "
            "The fare was {Fare}. Boarded at {Embarked}. Cabin {Cabin}. Ticket {Ticket}."
        ),
        words={
            "Pclass": {"1": "first", "2": "second", "3": "third"},
            "Embarked": {"C": "Cherbourg", "Q": "Queenstown", "S": "Southampton"},
        },
    ),
    "house-prices": CompetitionTexts(
        labels=HOUSE_LABELS,
        template=(
            "{BldgType} in {Neighborhood}, {HouseStyle}, built in {YearBuilt}. "
            "Overall quality {OverallQual}. Overall condition {OverallCond}. "
            "Living area {GrLivArea} square feet. Lot {LotArea} square feet. "
            "Basement {TotalBsmtSF} square feet. Garage for {GarageCars} cars. "
            "Kitchen quality {KitchenQual}. Exterior quality {ExterQual}. "
            "{FullBath} full bathrooms. {BedroomAbvGr} bedrooms. {Fireplaces} fireplaces. "
            "Remodeled in {YearRemodAdd}. Central air conditioning: {CentralAir}."
        ),
        words=HOUSE_WORDS,
        kinds={"MSSubClass": "categorical"},
    ),
    "nlp-disaster": CompetitionTexts(
        labels={"keyword": "keyword", "location": "location", "text": "tweet"},
        template="{text}\nKeyword: {keyword}.\nLocation: {location}.",
    ),
    "spaceship-titanic": CompetitionTexts(
        labels={
            "HomePlanet": "home planet",
            "CryoSleep": "in cryosleep",
            "Cabin": "cabin",
            "Destination": "destination",
            "Age": "age",
            "VIP": "VIP",
            "RoomService": "spent on room service",
            "FoodCourt": "spent at the food court",
            "ShoppingMall": "spent at the shopping mall",
            "Spa": "spent at the spa",
            "VRDeck": "spent on the VR deck",
            "Name": "name",
        },
        template=(
            "A passenger from {HomePlanet} to {Destination}, age {Age}. In cryosleep: {CryoSleep}. "
            "Cabin {Cabin}. VIP: {VIP}. Spent {RoomService} on room service. "
            "Spent {FoodCourt} at the food court. Spent {ShoppingMall} at the shopping mall. "
            "Spent {Spa} at the spa. Spent {VRDeck} on the VR deck."
        ),
    ),
}


def competition_texts(name: str) -> CompetitionTexts:
    """Return the entry of `COMPETITIONS`, or raise `TableError` naming the nearest."""
    if name not in COMPETITIONS:
        raise TableError(f"no texts for competition {name!r}{did_you_mean(name, COMPETITIONS)}")
    return COMPETITIONS[name]


def guess_competition(columns: Iterable[str]) -> str | None:
    """Return the competition whose input columns are all among `columns`; `None` if no one's."""
    present = set(columns)
    matches = [name for name, texts in COMPETITIONS.items() if present >= texts.labels.keys()]
    return max(matches, key=lambda name: len(COMPETITIONS[name].labels), default=None)
