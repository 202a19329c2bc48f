"""Words after which the Penn Treebank tokenizer keeps the full stop: "Mr.", "Inc.", "e.g."

As found in what coco-caption runs (Stanford CoreNLP 3.4.1). Case does not matter, except that
the words under `CAPITALISED` must start with a capital, being everyday words otherwise ("miss").
Each name is an alternation to stand inside a regular expression.
"""


def _alternatives(words: str) -> str:
    return f"(?i:{'|'.join(words.split())})"


CAPITALISED = "|".join(
    rf"{word[0]}(?i:{word[1:]})"
    for word in ["Az", "Ark", "Del", "Ill", "La", "Mass", "Miss", "Ore", "Pa", "Tex", "Wash"]
)

# Months, days, states, companies and ends of names. A title ("Mr.") is a list of its own because
# it keeps its stop wherever it stands, these only where two or more characters follow, or none.
COMMON = (
    _alternatives(
        """Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri
        Ala Ariz Calif Colo Conn Ct Dak Fla Ga Ind Kans? Ky Md Mich Minn Mo Mont Neb Nev Okla Penn
        Tenn Va Vt Wisc? Wyo Inc Cos? Corp Ltd Plc Rt Bancorp Bhd Assn Univ Intl
        Sys tel est ext sq Jr Sr Bros Ed\\.D Ph\\.D Blvd Rd Esq etc al seq Bldg"""
    )
    + rf"|{CAPITALISED}|(?i:Pp?t)[ye](?i:s?)"
)

TITLES = (
    _alternatives(
        """Mr Mrs Ms Drs? Profs? Sens? Reps? Attys? Lt Col Gen Messrs Govs? Adm Rev Maj Sgt Cpl Pvt
        Capt Ste? Ave Pres Lieut Hon Brig Co?mdr Pfc Spc Supts? Det Mt Ft Adj Adv Asst Assoc Ens
        Insp Mlle Mme Msgr Sfc vs Alex Wm Jos Cie a\\.k\\.a cf Treas Ph Invt Elec Natl Dept"""
    )
    + "|M(?i:iss)|(?i:M)[ft](?i:g)"
)

# These keep their stop before a number only: "fig. 5", "no. 10".
BEFORE_NUMBER = _alternatives("ca figs? prop nos? art bldg pp op")

FILE_ENDINGS = _alternatives(
    """bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php
    pl png ppt ps py sql tar txt wav x xml zip"""
)
