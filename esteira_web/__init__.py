from esteira_web import wording as wording
